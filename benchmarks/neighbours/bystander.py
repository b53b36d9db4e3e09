"""Uses a share of one core, and nothing else: bystander.py SHARE. Ends when killed."""

import sys
import time

_PAUSE_SECONDS = 0.01


def main() -> None:
    share, began = float(sys.argv[1]), time.monotonic()
    while True:
        while time.process_time() < share * (time.monotonic() - began):
            pass
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
