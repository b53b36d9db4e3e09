{{- /*
The configuration of the embedded NATS server. It has two accounts, so that publishers of events cannot read the
fabric's data. In the account of events, the triggers have a login. Without one, a client may publish to every subject
that is not a server's or the fabric's own, and subscribe to it outside of queue groups: as a member of a core trigger's
group it would take the trigger's messages. It may not use the API of JetStream at all, acknowledge nothing, and it
neither sees nor sends the answers to the fabric, whose inboxes begin with _INBOX.kubeirq. The monitoring port has no
login and shows the subjects of all accounts, so it listens within the pod only.
*/ -}}
{{- define "kubeirq.storeConfiguration" -}}
{{- $store := .Values.store.embedded -}}
{{- $closed := `"$JS.>", "$SYS.>", "$KV.>", "$O.>", "$KUBEIRQ.>", "_INBOX.kubeirq.>", "_R_.>"` -}}
server_name: {{ include "kubeirq.fullname" . }}-store
listen: 0.0.0.0:4222
http: 127.0.0.1:8222
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
      { user: anyone, password: "", permissions: {
        publish: { deny: [{{ $closed }}] }
        subscribe: { deny: [{{ $closed }}, "> *"] }
      } }
    ]
  }
  {{- end }}
}
{{- if $store.events.enabled }}
no_auth_user: anyone
{{- end }}
{{- end -}}

{{- /* A probe of the embedded NATS server. It runs within the pod, as nobody else reaches the monitoring port. Parameter: the path. */ -}}
{{- define "kubeirq.storeProbe" -}}
exec:
  command:
    - python3
    - -ISc
    - |
      import socket
      server = socket.create_connection(("127.0.0.1", 8222), 4)
      server.sendall(b"GET {{ . }} HTTP/1.0\r\n\r\n")
      raise SystemExit(b" 200 " not in server.recv(64))
timeoutSeconds: 5
{{- end -}}
