{{- define "slipring.name" -}}
{{- default .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- if not (contains "slipring" .Release.Name) }}-slipring{{ end -}}
{{- end -}}

{{- define "slipring.selector" -}}
app.kubernetes.io/name: slipring
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "slipring.labels" -}}
{{ include "slipring.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* One value in TOML. Helm reads numbers as floats. */}}
{{- define "slipring.toml" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* slipring.toml */}}
{{- define "slipring.config" -}}
{{- $host := ternary "127.0.0.1" "*" (eq .Values.mode "sidecar") -}}
sentinels = {{ if not .Values.sentinels }}{{ fail "sentinels: name at least one sentinel, HOST:PORT" }}{{ end }}{{ toJson .Values.sentinels }}
master = {{ toJson .Values.masters }}
{{- $primary := list }}{{ $replica := list }}
{{- range .Values.listeners }}
{{- $address := printf "%s:%s:%d%s" (ternary "tls" "tcp" (default false .tls)) $host (int .port) (ternary (printf "=%s" .master) "" (ne (default "" .master) "")) }}
{{- if .replicas }}{{ $replica = append $replica $address }}{{ else }}{{ $primary = append $primary $address }}{{ end }}
{{- end }}
listen = {{ toJson $primary }}
{{- if $replica }}
replica-listen = {{ toJson $replica }}
{{- end }}
metrics-listen = "*:{{ int .Values.metrics.port }}"
drain-timeout = "{{ int .Values.drainSeconds }}s"
{{- with .Values.auth.client.secretName }}
client-password-file = "/etc/slipring/client/password"
{{- end }}
{{- range $side := list "node" "sentinel" }}
{{- $login := index $.Values.auth $side }}{{ $prefix := ternary "" "sentinel-" (eq $side "node") }}
{{- if $login.secretName }}
{{ $prefix }}password-file = "/etc/slipring/{{ $side }}/password"
{{- with $login.username }}
{{ $prefix }}username = {{ toJson . }}
{{- end }}
{{- end }}
{{- $tls := index $.Values.tls $side }}
{{- if $tls.enabled }}
{{ $side }}-tls = true
{{ $side }}-tls-ca-file = "/etc/slipring/{{ $side }}-tls/ca.crt"
{{- with $tls.serverName }}
{{ $side }}-tls-server-name = {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.tls.listen.secretName }}
listen-tls-cert-file = "/etc/slipring/listen-tls/tls.crt"
listen-tls-key-file = "/etc/slipring/listen-tls/tls.key"
{{- if .Values.tls.listen.clientCaSecretName }}
listen-tls-ca-file = "/etc/slipring/client-tls/ca.crt"
{{- end }}
{{- end }}
{{- range $key, $value := .Values.config }}
{{ $key }} = {{ include "slipring.toml" $value }}
{{- end }}
{{- end -}}

{{- define "slipring.mounts" -}}
- {name: slipring-config, mountPath: /etc/slipring/config, readOnly: true}
{{- range $side := list "client" "node" "sentinel" }}
{{- if (index $.Values.auth $side).secretName }}
- {name: slipring-{{ $side }}, mountPath: /etc/slipring/{{ $side }}, readOnly: true}
{{- end }}
{{- end }}
{{- if .Values.tls.listen.secretName }}
- {name: slipring-listen-tls, mountPath: /etc/slipring/listen-tls, readOnly: true}
{{- end }}
{{- if .Values.tls.listen.clientCaSecretName }}
- {name: slipring-client-tls, mountPath: /etc/slipring/client-tls, readOnly: true}
{{- end }}
{{- range $side := list "node" "sentinel" }}
{{- if (index $.Values.tls $side).enabled }}
- {name: slipring-{{ $side }}-tls, mountPath: /etc/slipring/{{ $side }}-tls, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipring.volumes" -}}
- name: slipring-config
  configMap: {name: {{ include "slipring.name" . }}}
{{- range $side := list "client" "node" "sentinel" }}
{{- $login := index $.Values.auth $side }}
{{- if $login.secretName }}
- name: slipring-{{ $side }}
  secret: {secretName: {{ $login.secretName }}, items: [{key: {{ $login.key }}, path: password}]}
{{- end }}
{{- end }}
{{- with .Values.tls.listen.secretName }}
- name: slipring-listen-tls
  secret: {secretName: {{ . }}}
{{- end }}
{{- with .Values.tls.listen.clientCaSecretName }}
- name: slipring-client-tls
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- range $side := list "node" "sentinel" }}
{{- $tls := index $.Values.tls $side }}
{{- if $tls.enabled }}
- name: slipring-{{ $side }}-tls
  secret:
    secretName: {{ required (printf "tls.%s.caSecretName: the secret whose ca.crt vouches for it" $side) $tls.caSecretName }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipring.container" -}}
name: slipring
image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["--config", "/etc/slipring/config/slipring.toml"]
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
{{- range .Values.listeners }}
- {name: {{ .name }}, containerPort: {{ int .port }}}
{{- end }}
- {name: metrics, containerPort: {{ int .Values.metrics.port }}}
startupProbe: {httpGet: {path: /healthz, port: metrics}, periodSeconds: 1, failureThreshold: 30}
livenessProbe: {httpGet: {path: /healthz, port: metrics}, periodSeconds: 10, timeoutSeconds: 2}
# A failover takes less than this: pods stay in the Service while their clients wait.
readinessProbe: {httpGet: {path: /readyz, port: metrics}, periodSeconds: 5, failureThreshold: 6}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- if and (gt (int .Values.preStopSeconds) 0) (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}
lifecycle: {preStop: {sleep: {seconds: {{ int .Values.preStopSeconds }}}}}
{{- end }}
volumeMounts: {{- include "slipring.mounts" . | nindent 0 }}
{{- end -}}

{{/* For the initContainers of an application: starts before it and ends after it (Kubernetes 1.29). */}}
{{- define "slipring.sidecar" -}}
{{ include "slipring.container" . }}
restartPolicy: Always
{{- end -}}
