{{/* The release's name, with the chart's unless it holds it already; 63 characters at most. */}}
{{- define "vernal.name" -}}
{{- $chart := .Values.nameOverride | default "vernal" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $chart .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $chart | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of cluster-wide objects, and of those in other namespaces: two releases in two namespaces must not share them. */}}
{{- define "vernal.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "vernal.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The waker's, which are never cut to those of the operator. */}}
{{- define "vernal.wakerName" -}}
{{- printf "%s-waker" (include "vernal.name" . | trunc 57 | trimSuffix "-") -}}
{{- end -}}

{{- define "vernal.wakerClusterName" -}}
{{- printf "%s-waker" (include "vernal.clusterName" . | trunc 57 | trimSuffix "-") -}}
{{- end -}}

{{- define "vernal.metricsService" -}}
{{- printf "%s-metrics" (include "vernal.name" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "vernal.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "vernal.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "vernal.image" -}}
{{- $hint := "image.repository is required: build operator/Containerfile, push it, and say --set image.repository=REGISTRY/vernal-operator" -}}
{{- $repository := required $hint .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Labels by which a Deployment knows its pods cannot be changed: these stay as they are. */}}
{{- define "vernal.selectorLabels" -}}
app.kubernetes.io/name: vernal-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vernal.labels" -}}
{{ include "vernal.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "vernal.wakerSelectorLabels" -}}
app.kubernetes.io/name: vernal-waker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vernal.wakerLabels" -}}
{{ include "vernal.wakerSelectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Of the operator's own containers. */}}
{{- define "vernal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Variables of OpenTelemetry for the operator's own containers, if starts are traced. */}}
{{- define "vernal.tracingEnv" -}}
{{- with .Values.tracing }}
{{- if .endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler }}
{{- if .headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ .headersSecret.name }}
      key: {{ .headersSecret.key }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vernal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
