{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of most resources. A release that is called as the chart does not repeat it. */ -}}
{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "operator.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "operator.labels" -}}
{{ include "operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "operator.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "operator.leaseNamespace" -}}
{{- default .Release.Namespace .Values.leaderElection.namespace }}
{{- end }}

{{- /* What the Prometheus operator is told about a scrape, for a ServiceMonitor and for a PodMonitor. */ -}}
{{- define "operator.scrapeAuthorization" -}}
{{- with .Values.metrics.auth }}
{{- if not .enabled }}
{{- else if .tokenSecret.name }}
authorization:
  type: Bearer
  credentials:
    name: {{ .tokenSecret.name }}
    key: {{ .tokenSecret.key }}
{{- else if $.Values.metrics.podMonitor.enabled }}
{{- fail "metrics.auth.enabled with metrics.podMonitor.enabled needs metrics.auth.tokenSecret.name: a PodMonitor cannot tell Prometheus to show its own token; a ServiceMonitor can" }}
{{- else }}
# That of Prometheus itself. `authorization` is the newer field, and takes a Secret only.
bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- end }}
{{- end }}
{{- end }}

{{- /* The Secret with the broker's URI; empty when there is none. */ -}}
{{- define "operator.brokerSecret" -}}
{{- with .Values.broker }}
{{- if and .url .existingSecret.name }}
{{- fail "broker.url and broker.existingSecret.name: set one of the two" }}
{{- end }}
{{- if .url }}
{{- printf "%s-broker" (include "operator.fullname" $) }}
{{- else }}
{{- .existingSecret.name }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the pod of the operator and that of the test have in common. */ -}}
{{- define "operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
