{{- /*
The configuration of the embedded NATS server. It has two accounts, so that publishers of events cannot read the
fabric's data.
*/ -}}
{{- define "kubeirq.storeConfiguration" -}}
{{- $store := .Values.store.embedded -}}
server_name: {{ include "kubeirq.fullname" . }}-store
listen: 0.0.0.0:4222
http: 0.0.0.0:8222
max_payload: 8MB
jetstream {
  store_dir: /data
  sync_interval: {{ $store.syncInterval }}
  max_file_store: {{ $store.maxFileSize }}
  max_memory_store: 64Mi
}
accounts {
  FABRIC {
    jetstream: enabled
    users: [{ user: fabric, password: $STORE_PASSWORD }]
  }
  {{- if $store.events.enabled }}
  EVENTS {
    jetstream { max_file: {{ $store.events.maxFileSize }}, max_mem: 32Mi }
    users: [{ user: anyone, password: "" }]
  }
  {{- end }}
}
{{- if $store.events.enabled }}
no_auth_user: anyone
{{- end }}
{{- end -}}
