{{/* The release's name, with the chart's unless it holds it already; 63 characters at most. */}}
{{- define "vernal.name" -}}
{{- if contains "vernal" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-vernal" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of cluster-wide objects: two releases in two namespaces must not share them. */}}
{{- define "vernal.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "vernal.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

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
