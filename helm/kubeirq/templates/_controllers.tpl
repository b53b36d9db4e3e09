{{- /*
The enabled controllers, those of plugins too, as a JSON list. Each has its name (which is also its component), the
arguments of `python -m controllers`, the image, the name of its service account, and its settings with the fields of `controllerDefaults`. A trigger
controller also has group, kind and resource (the plural).
*/ -}}
{{- define "kubeirq.controllers" -}}
{{- $found := list -}}
{{- $image := include "kubeirq.image" (dict "top" . "image" .Values.image) -}}
{{- $defaults := .Values.controllerDefaults -}}
{{- $kinds := dict "http" "HTTPTrigger" "cron" "CronTrigger" "kafka" "KafkaTrigger" "nats" "NATSTrigger" -}}
{{- range $name := list "functions" "http" "cron" "kafka" "nats" -}}
  {{- $own := index $.Values.controllers $name -}}
  {{- if $own.enabled -}}
    {{- $settings := mergeOverwrite (deepCopy $defaults) (omit $own "enabled") -}}
    {{- $account := include "kubeirq.account" (dict "top" $ "name" $name "settings" $settings) -}}
    {{- $controller := dict "name" $name "image" $image "settings" $settings "account" $account -}}
    {{- if eq $name "functions" -}}
      {{- $found = append $found (merge $controller (dict "arguments" (list $name))) -}}
    {{- else -}}
      {{- $kind := get $kinds $name -}}
      {{- $what := dict "group" "kubeirq.dev" "kind" $kind "resource" (printf "%ss" (lower $kind)) -}}
      {{- $found = append $found (merge $controller $what (dict "arguments" (list "trigger" $name))) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range .Values.plugins -}}
  {{- $name := lower .kind | trimSuffix "trigger" -}}
  {{- $settings := mergeOverwrite (deepCopy $defaults) (omit . "kind" "group" "image") -}}
  {{- $controller := dict "name" $name "image" (include "kubeirq.withRegistry" (dict "top" $ "image" .image)) "settings" $settings "arguments" (list "trigger" $name) -}}
  {{- $_ := set $controller "account" (include "kubeirq.account" (dict "top" $ "name" $name "settings" $settings)) -}}
  {{- $what := dict "group" (default "kubeirq.dev" .group) "kind" .kind "resource" (printf "%ss" (lower .kind)) -}}
  {{- $found = append $found (merge $controller $what) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* The environment variables of a controller: the common ones, then those of its kind. Parameters: top, controller. */ -}}
{{- define "kubeirq.environment" -}}
{{- $values := .top.Values -}}
- name: KUBEIRQ_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: KUBEIRQ_RELEASE
  value: {{ printf "%s/%s" .top.Release.Namespace .top.Release.Name | quote }}
- name: KUBEIRQ_REPLICA
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: KUBEIRQ_PORT
  value: "9090"
- name: KUBEIRQ_GRACE_SECONDS
  value: {{ $values.graceSeconds | quote }}
- name: KUBEIRQ_LOG_LEVEL
  value: {{ default "info" $values.logLevel }}
{{- with $values.watchNamespace }}
- name: KUBEIRQ_WATCH_NAMESPACE
  value: {{ . | quote }}
{{- end }}
{{- if .controller.kind }}
{{ include "kubeirq.triggerEnvironment" . }}
{{- else }}
{{ include "kubeirq.functionEnvironment" . }}
{{- end }}
{{- with .controller.settings.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The pods of this release, as a peer of a NetworkPolicy: the trigger controllers call functions. */ -}}
{{- define "kubeirq.fabricPeer" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .Release.Namespace }}
podSelector:
  matchLabels:
    {{- include "kubeirq.selector" . | nindent 4 }}
{{- end -}}

{{- define "kubeirq.functionEnvironment" -}}
{{- $values := .top.Values -}}
- name: KUBEIRQ_RUNTIME_IMAGE
  value: {{ include "kubeirq.image" (dict "top" .top "image" $values.runtimes.image) | quote }}
- name: KUBEIRQ_IMAGES
  value: {{ $values.functions.images | toJson | quote }}
- name: KUBEIRQ_IMAGE_PULL_POLICY
  value: {{ $values.functions.imagePullPolicy }}
{{- $policy := default (dict "enabled" true) $values.functions.networkPolicy }}
{{- if $policy.enabled }}
- name: KUBEIRQ_CALLERS
  value: {{ concat (list (include "kubeirq.fabricPeer" .top | fromYaml)) (default (list) $policy.from) | toJson | quote }}
{{- end }}
{{- if ($values.openshift).enabled }}
- name: KUBEIRQ_FIXED_USER
  value: "false"
{{- end }}
{{- with $values.functions.initResources }}
- name: KUBEIRQ_INIT_RESOURCES
  value: {{ toJson . | quote }}
{{- end }}
{{- with $values.functions.packageIndex.url }}
- name: KUBEIRQ_PACKAGE_INDEX
  value: {{ . | quote }}
{{- end }}
{{- with $values.functions.packageIndex.extraUrls }}
- name: KUBEIRQ_EXTRA_PACKAGE_INDEXES
  value: {{ join " " . | quote }}
{{- end }}
{{- with $values.functions.packageIndex.trustedHosts }}
- name: KUBEIRQ_TRUSTED_PACKAGE_HOSTS
  value: {{ join " " . | quote }}
{{- end }}
{{- end -}}

{{- /* The URL of the gateway: the first host of the Ingress, or else the Service. */ -}}
{{- define "kubeirq.gatewayUrl" -}}
{{- $ingress := .Values.gateway.ingress -}}
{{- $port := int .Values.gateway.service.port -}}
{{- if and $ingress.enabled $ingress.hosts -}}
{{ ternary "https" "http" (ne $ingress.tlsSecretName "") }}://{{ first $ingress.hosts }}
{{- else -}}
http://{{ include "kubeirq.fullname" . }}-gateway.{{ .Release.Namespace }}.svc{{ if ne $port 80 }}:{{ $port }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "kubeirq.triggerEnvironment" -}}
{{- $values := .top.Values -}}
{{- $store := $values.store -}}
{{- $embedded := include "kubeirq.embedsStore" .top -}}
{{- $address := printf "%s-store:4222" (include "kubeirq.fullname" .top) -}}
- name: KUBEIRQ_ADMIN_SOCKET
  value: /run/kubeirq/admin.sock
- name: KUBEIRQ_ADMIN_CERTIFICATE
  value: /etc/kubeirq/admin
- name: KUBEIRQ_ADMIN_PORT
  value: "9443"
- name: KUBEIRQ_ADMIN_PEERS
  value: {{ include "kubeirq.fullname" .top }}-{{ .controller.name }}-admin
{{- if not (include "kubeirq.hasAdminApi" .top) }}
- name: KUBEIRQ_ADMIN_USERS
  value: "false"
{{- end }}
- name: KUBEIRQ_SERVICE_ACCOUNT
  value: {{ printf "%s:%s" .top.Release.Namespace .controller.account | quote }}
{{- if and $values.rbac.create (not $values.watchNamespace) }}
- name: KUBEIRQ_SECRETS_ROLE
  value: {{ include "kubeirq.fullname" .top }}-secrets
{{- end }}
{{- with $values.reach.allow }}
- name: KUBEIRQ_REACH_ALLOW
  value: {{ join " " . | quote }}
{{- end }}
{{- if eq .controller.name "http" }}
- name: KUBEIRQ_GATEWAY_PORT
  value: "8080"
- name: KUBEIRQ_GATEWAY_URL
  value: {{ include "kubeirq.gatewayUrl" .top | quote }}
{{- $policy := default (dict "enabled" true) $values.functions.networkPolicy }}
{{- if $policy.enabled }}
- name: KUBEIRQ_EXPOSED_CALLERS
  value: {{ default (list) $policy.exposedFrom | toJson | quote }}
{{- end }}
{{- end }}
{{- with $values.kafka.brokers }}
- name: KUBEIRQ_KAFKA_BROKERS
  value: {{ join " " . | quote }}
{{- end }}
{{- if $embedded }}
- name: KUBEIRQ_STORE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "kubeirq.storeSecret" .top }}, key: password}}
{{- end }}
{{- if $values.nats.servers }}
- name: KUBEIRQ_NATS_SERVERS
  value: {{ join " " $values.nats.servers | quote }}
{{- else if and $embedded $store.embedded.events.enabled }}
- name: KUBEIRQ_NATS_SERVERS
  value: nats://triggers:$(KUBEIRQ_STORE_PASSWORD)@{{ $address }}
- name: KUBEIRQ_OWN_SERVERS
  value: nats
{{- end }}
{{- if $embedded }}
- name: KUBEIRQ_STORE_NATS_SERVERS
  value: nats://fabric:$(KUBEIRQ_STORE_PASSWORD)@{{ $address }}
{{- else if $store.nats.servers }}
- name: KUBEIRQ_STORE_NATS_SERVERS
  value: {{ join " " $store.nats.servers | quote }}
- name: KUBEIRQ_STORE_REPLICAS
  value: {{ $store.nats.replicas | quote }}
{{- if $store.nats.credentials.secretName }}
- name: KUBEIRQ_STORE_NATS_CREDS
  value: /etc/kubeirq/store/{{ $store.nats.credentials.key }}
{{- end }}
{{- end }}
{{- end -}}
