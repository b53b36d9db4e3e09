// Command nexttimes reads cron expressions with the parser and the schedules of Kubernetes' CronJobs, for tests.
//
// Each line of its input is a question, and each line of its output is the answer to it, in JSON.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/robfig/cron/v3"
)

type question struct {
	Expression string `json:"expression"`
	Zone       string `json:"zone"`
	After      int64  `json:"after"`
	Count      int    `json:"count"`
	Seconds    bool   `json:"seconds"` // six fields with the seconds first, which Kubernetes refuses
}

type answer struct {
	Error string  `json:"error"`
	Times []int64 `json:"times"`
}

var (
	standard    = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	withSeconds = cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := answers.Encode(answerTo(asked)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func answerTo(asked question) answer {
	location, err := time.LoadLocation(asked.Zone)
	if err != nil {
		return answer{Error: err.Error()}
	}
	parser := standard
	if asked.Seconds {
		parser = withSeconds
	}
	schedule, err := parser.Parse(asked.Expression)
	if err != nil {
		return answer{Error: err.Error()}
	}
	found := answer{Times: []int64{}}
	for moment := time.Unix(asked.After, 0).In(location); len(found.Times) < asked.Count; {
		if moment = schedule.Next(moment); moment.IsZero() {
			break
		}
		found.Times = append(found.Times, moment.Unix())
	}
	return found
}
