{{- define "model-server.selector" -}}
app.kubernetes.io/name: model-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "model-server.testSelector" -}}
app.kubernetes.io/name: model-server-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "model-server.labels" -}}
{{ include "model-server.selector" . }}
app.kubernetes.io/part-of: countersign
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
countersign/pipeline: {{ .Values.pipeline | replace "_" "-" }}
{{- end }}

{{- define "model-server.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest }}{{ $i.repository }}@{{ $i.digest }}{{ else }}{{ $i.repository }}:{{ required "image.digest or image.tag" $i.tag }}{{ end -}}
{{- end }}

{{- define "model-server.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "model-server.podSecurity" -}}
runAsNonRoot: true
runAsUser: 8737
runAsGroup: 8737
fsGroup: 8737
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What replaces pods: the same for a Deployment and a Rollout. */}}
{{- define "model-server.template" -}}
{{- $least := add .Values.drain.seconds 15 }}
{{- if lt (int .Values.drain.grace) (int $least) }}
{{- fail (printf "drain.grace is %v: the server listens for up to 10 s after drain.seconds and sends its log for 5, so it takes %d at least" .Values.drain.grace $least) }}
{{- end -}}
metadata:
  labels:
    {{- include "model-server.labels" . | nindent 4 }}
  annotations:
    countersign/release: {{ required "release: the promoter sets it" .Values.release | quote }}
spec:
  serviceAccountName: {{ .Release.Name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.drain.grace }}
  securityContext:
    {{- include "model-server.podSecurity" . | nindent 4 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range .Values.spread }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "model-server.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: server
      image: {{ include "model-server.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python, /opt/countersign/with_code.py]
      args: [python, -m, workflows.serve, --release, /etc/countersign/release.json]
      workingDir: /work
      securityContext:
        {{- include "model-server.security" . | nindent 8 }}
      env:
        - {name: HOME, value: /tmp}
        - {name: COUNTERSIGN_CODE, value: {{ .Values.code | quote }}}
        - {name: COUNTERSIGN_STORE, value: {{ .Values.store.url | quote }}}
        - {name: AWS_ENDPOINT_URL_S3, value: {{ .Values.store.endpoint | quote }}}
        - {name: AWS_REGION, value: {{ .Values.store.region | quote }}}
        {{- with .Values.store.secret }}
        {{- range (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY") }}
        - name: {{ . }}
          valueFrom:
            secretKeyRef: {name: {{ $.Values.store.secret }}, key: {{ . }}}
        {{- end }}
        {{- end }}
        - {name: COUNTERSIGN_TRUSTED_KEYS, value: /keys/trusted}
        - {name: COUNTERSIGN_SIGNING_KEY_FILE, value: /keys/signing/signing.pem}
        - {name: COUNTERSIGN_SUBJECT_KEY_FILE, value: /keys/subject/subject_key}
        - {name: COUNTERSIGN_LOG, value: /log}
        - {name: COUNTERSIGN_LOG_MODE, value: {{ .Values.log.mode }}}
        - {name: COUNTERSIGN_LOG_SIZE, value: {{ .Values.log.size | quote }}}
        # After preStop, until it no longer listens (5 s), until what goes on has ended (20 s), and to end (5 s); the rest is for the log,
        # and 5 s where drain.grace leaves less.
        - {name: COUNTERSIGN_SEND, value: {{ max 5 (sub (sub .Values.drain.grace .Values.drain.seconds) 30) | quote }}}
        {{- with .Values.tracing.endpoint }}
        - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
        {{- end }}
        {{- range $name, $value := .Values.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: metrics, containerPort: 9090}
      # A server that cannot load is alive and looks again: killed for it, it would say less and take longer. Traffic waits for readiness.
      startupProbe:
        httpGet: {path: /v2/health/live, port: http}
        periodSeconds: {{ .Values.probes.period }}
        timeoutSeconds: 3
        failureThreshold: {{ max 1 (div .Values.probes.startup .Values.probes.period) }}
      readinessProbe:
        httpGet: {path: /v2/health/ready, port: http}
        periodSeconds: {{ .Values.probes.period }}
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /v2/health/live, port: http}
        periodSeconds: {{ .Values.probes.period }}
        timeoutSeconds: 3
        failureThreshold: 6
      lifecycle:
        preStop:
          sleep: {seconds: {{ .Values.drain.seconds }}}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: release, mountPath: /etc/countersign, readOnly: true}
        - {name: trusted, mountPath: /keys/trusted, readOnly: true}
        - {name: signing, mountPath: /keys/signing, readOnly: true}
        - {name: subject, mountPath: /keys/subject, readOnly: true}
        - {name: log, mountPath: /log}
        - {name: tmp, mountPath: /tmp}
        - {name: work, mountPath: /work}
  volumes:
    # The release lies in the pod itself, so that pods of two releases each keep their own while one follows the other.
    - name: release
      downwardAPI:
        items:
          - path: release.json
            fieldRef: {fieldPath: "metadata.annotations['countersign/release']"}
    - name: trusted
      configMap: {name: {{ .Values.keys.trusted }}}
    - name: signing
      secret: {secretName: {{ .Values.keys.signing }}, defaultMode: 0440}
    - name: subject
      secret: {secretName: {{ .Values.keys.subject }}, defaultMode: 0440}
    - {name: log, emptyDir: {sizeLimit: {{ .Values.log.size }}}}
    - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
    - {name: work, emptyDir: {sizeLimit: 64Mi}}
{{- end }}

{{- /* One thing that a canary must show. */}}
{{- define "model-server.metric" -}}
- name: {{ .name }}
  interval: {{ .a.interval }}s
  count: {{ .a.count }}
  failureLimit: {{ .a.failures }}
  consecutiveErrorLimit: {{ .a.failures }}
  successCondition: len(result) > 0 && !isNaN(result[0]) && result[0] {{ .limit }}
  # Neither yes nor no would let it wait for ever.
  failureCondition: len(result) == 0 || isNaN(result[0]) || !(result[0] {{ .limit }})
  provider:
    prometheus:
      address: {{ .a.prometheus }}
      query: |-
        {{ .query }}
{{- end }}
