{{- /* The name prefix of all objects: the release name if it contains kubeirq, otherwise <release>-kubeirq. */ -}}
{{- define "kubeirq.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The name is fixed, because `kubeirq` finds the controllers by it. .Chart.Name is the alias in a parent chart. */ -}}
{{- define "kubeirq.selector" -}}
app.kubernetes.io/name: kubeirq
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kubeirq.labels" -}}
{{ include "kubeirq.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "kubeirq-%s" .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /*
The metadata of one object. Parameters: top, name (a suffix; optional), component (optional), labels (optional; they cannot
replace the chart's), namespace (default: the release namespace; "" for an object without a namespace).
*/ -}}
{{- define "kubeirq.metadata" -}}
name: {{ include "kubeirq.fullname" .top }}{{ with .name }}-{{ . }}{{ end }}
{{- if not (hasKey . "namespace") }}
namespace: {{ .top.Release.Namespace }}
{{- else if .namespace }}
namespace: {{ .namespace }}
{{- end }}
labels:
  {{- $labels := include "kubeirq.labels" .top | fromYaml }}
  {{- with .component }}
  {{- $_ := set $labels "app.kubernetes.io/component" . }}
  {{- end }}
  {{- merge $labels (default (dict) .labels) (default (dict) .top.Values.commonLabels) | toYaml | nindent 2 }}
{{- end -}}

{{- /* The labels of pods. Parameters: top, component, labels (they cannot replace the selector's labels). */ -}}
{{- define "kubeirq.podLabels" -}}
{{- $fixed := include "kubeirq.selector" .top | fromYaml -}}
{{- $_ := set $fixed "app.kubernetes.io/component" .component -}}
{{- merge $fixed (default (dict) .labels) (default (dict) .top.Values.commonLabels) | toYaml -}}
{{- end -}}

{{- /* The name of a service account. Parameters: top, name (a component), settings (with serviceAccount). */ -}}
{{- define "kubeirq.account" -}}
{{- default (printf "%s-%s" (include "kubeirq.fullname" .top) .name) (.settings.serviceAccount).name -}}
{{- end -}}

{{- /* The pod fields for scheduling and image pulls, possibly none. Parameters: top, settings. */ -}}
{{- define "kubeirq.placement" -}}
{{- with concat (default (list) (.top.Values.global).imagePullSecrets) (default (list) .top.Values.imagePullSecrets) | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A reference to an image. Parameters: top, image (from the values). */ -}}
{{- define "kubeirq.image" -}}
{{- include "kubeirq.withRegistry" (dict "top" .top "image" .image.repository) -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .top.Chart.AppVersion .image.tag }}{{ end -}}
{{- end -}}

{{- /* The image in global.imageRegistry, unless it names a registry, as in docker's references. Parameters: top, image. */ -}}
{{- define "kubeirq.withRegistry" -}}
{{- $first := splitList "/" .image | first -}}
{{- $isNamed := and (contains "/" .image) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- with (.top.Values.global).imageRegistry -}}
{{- if not $isNamed }}{{ trimSuffix "/" . }}/{{ end -}}
{{- end -}}
{{- .image -}}
{{- end -}}

{{- define "kubeirq.podSecurity" -}}
{{- $own := dict "runAsNonRoot" true "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if not (.Values.openshift).enabled -}}
{{- $own = merge $own (dict "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532) -}}
{{- end -}}
{{- include "kubeirq.overlaid" (dict "own" $own "given" .Values.podSecurityContext) -}}
{{- end -}}

{{- define "kubeirq.containerSecurity" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- include "kubeirq.overlaid" (dict "own" $own "given" .Values.securityContext) -}}
{{- end -}}

{{- /* The chart's own fields with the given ones in their place; null leaves a field out. Parameters: own, given. */ -}}
{{- define "kubeirq.overlaid" -}}
{{- $fields := .own -}}
{{- range $name, $value := .given -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $fields $name -}}
{{- else -}}
{{- $_ := set $fields $name $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end -}}

{{- /*
The namespaces with Secrets, without those that do not exist or are being deleted: else no upgrade would work after one
is deleted. Without a cluster to look at, all of them; also with watchNamespace, because the person who installs may not
see namespaces then.
*/ -}}
{{- define "kubeirq.secretNamespaces" -}}
{{- $missing := include "kubeirq.missingNamespaces" . | splitList " " -}}
{{- $found := list -}}
{{- range default (list .Release.Namespace) .Values.secretNamespaces | uniq -}}
{{- if not (has . $missing) -}}
{{- $found = append $found . -}}
{{- end -}}
{{- end -}}
{{- join " " $found -}}
{{- end -}}

{{- define "kubeirq.missingNamespaces" -}}
{{- $missing := list -}}
{{- if and .Values.secretNamespaces (not .Values.watchNamespace) (lookup "v1" "Namespace" "" "kube-system") -}}
{{- range .Values.secretNamespaces | uniq -}}
{{- $found := lookup "v1" "Namespace" "" . -}}
{{- if and (ne . $.Release.Namespace) (or (not $found) (hasKey (default (dict) $found.metadata) "deletionTimestamp")) -}}
{{- $missing = append $missing . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- join " " $missing -}}
{{- end -}}

{{- /* "true" if the embedded NATS server is the fabric's store. */ -}}
{{- define "kubeirq.embedsStore" -}}
{{- if and .Values.store.embedded.enabled (not .Values.store.nats.servers) -}}true{{- end -}}
{{- end -}}

{{- define "kubeirq.storeSecret" -}}
{{- default (printf "%s-store" (include "kubeirq.fullname" .)) .Values.store.embedded.existingSecret -}}
{{- end -}}

{{- /*
"true" if the controllers serve the admin API to users. It needs cluster-wide rights to review tokens. Without it the admin
port of a trigger controller serves the other replicas only.
*/ -}}
{{- define "kubeirq.hasAdminApi" -}}
{{- if and (dig "adminApi" "enabled" true .Values.AsMap) (not .Values.watchNamespace) -}}true{{- end -}}
{{- end -}}

{{- define "kubeirq.adminSecret" -}}
{{- default (printf "%s-admin" (include "kubeirq.fullname" .)) (.Values.adminApi).existingSecret -}}
{{- end -}}

{{- /*
Refuses a second release in a namespace, and a second alias in a parent chart: the two would share their Leases. `helm
template` cannot see another release. Charts see each other only in .Release, because helm gives one to all charts.
*/ -}}
{{- define "kubeirq.alone" -}}
{{- $first := default .Chart.Name (get .Release "kubeirq") -}}
{{- if ne $first .Chart.Name -}}
{{- fail (printf "%s and %s are both kubeirq, and two in a namespace share their Leases; install one of them as a release of its own, into another namespace" $first .Chart.Name) -}}
{{- end -}}
{{- $_ := set .Release "kubeirq" .Chart.Name -}}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace "").items -}}
{{- $labels := default (dict) .metadata.labels -}}
{{- $other := get $labels "app.kubernetes.io/instance" -}}
{{- if and (eq (get $labels "app.kubernetes.io/name") "kubeirq") (hasPrefix "kubeirq-" (get $labels "helm.sh/chart")) (ne $other $.Release.Name) -}}
{{- fail (printf "namespace %s has release %s of kubeirq already, and two releases in a namespace share their Leases; install this one into a namespace of its own" $.Release.Namespace $other) -}}
{{- end -}}
{{- end -}}
{{- end -}}
