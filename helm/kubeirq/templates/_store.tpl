{{- /*
The configuration of the embedded NATS server. It has two accounts, so that publishers of events cannot read the
fabric's data. In the account of events, the triggers have a login. Without one, a client may publish, subscribe, read
messages and create streams. It may not delete, purge or update streams, nor change a trigger's consumer, nor take or
acknowledge its messages: `$JS.API.CONSUMER.CREATE.` changes a consumer that exists.
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
    users: [
      { user: triggers, password: $STORE_PASSWORD }
      { user: anyone, password: "", permissions: { publish: { deny: [
        "$JS.ACK.>", "$JS.API.ACCOUNT.PURGE.>", "$JS.API.META.>", "$JS.API.SERVER.>"
        "$JS.API.STREAM.DELETE.>", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.MSG.DELETE.>"
        "$JS.API.STREAM.RESTORE.>", "$JS.API.STREAM.PEER.>", "$JS.API.STREAM.LEADER.>"
        "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.>", "$JS.API.CONSUMER.DELETE.>", "$JS.API.CONSUMER.MSG.>"
        "$JS.API.CONSUMER.PAUSE.>", "$JS.API.CONSUMER.UNPIN.>", "$JS.API.CONSUMER.RESET.>", "$JS.API.CONSUMER.LEADER.>"
      ] } } }
    ]
  }
  {{- end }}
}
{{- if $store.events.enabled }}
no_auth_user: anyone
{{- end }}
{{- end -}}
