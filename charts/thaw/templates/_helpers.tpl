{{/* The release's name, with the chart's unless it holds it already; 63 characters at most. */}}
{{- define "thaw.name" -}}
{{- if contains "thaw" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-thaw" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of cluster-wide objects: two releases in two namespaces must not share them. */}}
{{- define "thaw.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "thaw.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "thaw.selectorLabels" -}}
app.kubernetes.io/name: thaw-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "thaw.labels" -}}
{{ include "thaw.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
