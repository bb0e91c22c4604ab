{{/*
Names and labels. Every name starts with tfrun.name, so that releases can share a namespace.

Helpers are named tfrun.<component>.<object>.<attribute>. Those of a single role take
(dict "root" $ "role" "ps"), all others take the root context.
*/}}

{{/* What all names start with: the release's name. In an umbrella chart that gives this chart an alias,
it is RELEASE-ALIAS, so that one release can hold several runs. */}}
{{- define "tfrun.name" -}}
{{- $alias := .Chart.Name | lower | replace "_" "-" -}}
{{ eq .Chart.Name "tfrun" | ternary .Release.Name (printf "%s-%s" .Release.Name $alias) }}
{{- end }}

{{/* The roles of the mode, separated by spaces. Keep them as `least` in launcher/shared/modes.py. */}}
{{- define "tfrun.mode.roles" -}}
{{ get (dict "parameter-server" "ps worker" "coordinator" "chief ps worker" "all-reduce" "worker") .Values.mode }}
{{- end }}

{{/* The roles of the run, separated by spaces. */}}
{{- define "tfrun.roles" -}}
{{ include "tfrun.mode.roles" . }}{{ if .Values.evaluator.replicas }} evaluator{{ end }}
{{- end }}

{{- define "tfrun.task.replicas" -}}
{{ eq .role "chief" | ternary 1 (index .root.Values .role).replicas | int64 }}
{{- end }}

{{- define "tfrun.task.statefulset.name" -}}
{{ include "tfrun.name" .root }}-{{ .role }}
{{- end }}

{{/* The tasks' DNS names end in this Service's name. */}}
{{- define "tfrun.task.service.name" -}}
{{ include "tfrun.name" . }}
{{- end }}

{{- define "tfrun.task.serviceaccount.name" -}}
{{ include "tfrun.name" . }}-task
{{- end }}

{{- define "tfrun.controller.service.name" -}}
{{ include "tfrun.name" . }}-controller
{{- end }}

{{- define "tfrun.controller.serviceaccount.name" -}}
{{ include "tfrun.name" . }}-controller
{{- end }}

{{/* The Job and its ConfigMap are named by their content: see tfrun.controller.job.hash. */}}
{{- define "tfrun.controller.job.name" -}}
{{ include "tfrun.name" . }}-{{ include "tfrun.controller.job.hash" . }}
{{- end }}

{{- define "tfrun.controller.configmap.name" -}}
{{ include "tfrun.controller.job.name" . }}
{{- end }}

{{/* Takes (dict "root" $ "package" "task"). */}}
{{- define "tfrun.launcher.configmap.name" -}}
{{ include "tfrun.name" .root }}-launcher-{{ .package }}-{{ include "tfrun.launcher.configmap.data" . | sha256sum | trunc 8 }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "tfrun.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{ include "tfrun.selector" . }}
{{- end }}

{{/* The labels of every pod of the release. They have no version, so that a new chart keeps the pods. */}}
{{- define "tfrun.selector" -}}
app.kubernetes.io/name: tfrun
app.kubernetes.io/instance: {{ include "tfrun.name" . | quote }}
{{- end }}

{{/* The pods of all tasks. */}}
{{- define "tfrun.task.selector" -}}
{{ include "tfrun.selector" . }}
app.kubernetes.io/component: task
{{- end }}

{{/* The pod of one controller, so that tasks find the new one after an upgrade. Takes
(dict "root" $ "hash" "..."). */}}
{{- define "tfrun.controller.selector" -}}
{{ include "tfrun.selector" .root }}
tfrun/role: controller
tfrun/job: {{ .hash | quote }}
{{- end }}
