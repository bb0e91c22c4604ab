{{/*
job.json, which tells the launcher what to run, and the hashes that name it.

A program's words and variables are strings. toJson writes numbers and booleans as people do
(1000000, never 1e+06), whether they come from a file or from --set.
*/}}

{{- define "tfrun.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "tfrun.run.program" -}}
{{- $program := pick .Values.program "flags" "workingDir" }}
{{- range $key := list "command" "args" }}
{{- $words := list }}
{{- range index $.Values.program $key }}
{{- $words = append $words (kindIs "string" . | ternary . (toJson .)) }}
{{- end }}
{{- $_ := set $program $key $words }}
{{- end }}
{{- $env := dict }}
{{- range $name, $value := .Values.program.env }}
{{- $_ := set $env $name (kindIs "string" $value | ternary $value (toJson $value)) }}
{{- end }}
{{- $_ := set $program "env" $env }}
{{- toJson $program }}
{{- end }}

{{/* The sources that are filled in (tfrun.validate insists on exactly one), and the options that decide
what the code is. Empty keys are left out. */}}
{{- define "tfrun.run.code" -}}
{{- $code := dict }}
{{- range $kind := list "nfs" "claim" "archive" "git" "image" }}
{{- $source := dict }}
{{- range $key, $value := index $.Values.code $kind }}
{{- if $value }}{{ $_ := set $source $key $value }}{{ end }}
{{- end }}
{{- if $source }}{{ $_ := set $code $kind $source }}{{ end }}
{{- end }}
{{- range $key := list "inline" "requirements" "digest" }}
{{- with index $.Values.code $key }}{{ $_ := set $code $key . }}{{ end }}
{{- end }}
{{- toJson $code }}
{{- end }}

{{/* Names what trains. Counts, resources and policies are not part of it, because they may change
while the same training goes on. */}}
{{- define "tfrun.run.id" -}}
{{- $trains := dict
  "attempt" (int64 .Values.run.attempt)
  "code" (include "tfrun.run.code" . | fromJson)
  "image" (include "tfrun.image" .)
  "mode" .Values.mode
  "program" (include "tfrun.run.program" . | fromJson) }}
{{- toJson $trains | sha256sum | trunc 12 }}
{{- end }}

{{/* Names the task pods' templates. It makes job.json change with them, so that a new controller, which
knows the new templates, leads while pods are replaced. fromYaml drops comments, so they do not count. */}}
{{- define "tfrun.task.pods.hash" -}}
{{- $templates := dict }}
{{- range $role := include "tfrun.roles" . | splitList " " }}
{{- $_ := set $templates $role (include "tfrun.task.pod.template" (dict "root" $ "role" $role) | fromYaml) }}
{{- end }}
{{- toJson $templates | sha256sum | trunc 8 }}
{{- end }}

{{- define "tfrun.controller.configmap.json" -}}
{{- $replicas := dict }}
{{- range $role := include "tfrun.roles" . | splitList " " }}
{{- $_ := set $replicas $role (include "tfrun.task.replicas" (dict "root" $ "role" $role) | int64) }}
{{- end }}
{{- $host := printf "%s-{role}-{index}.%s" (include "tfrun.name" .) (include "tfrun.task.service.name" .) }}
{{- $job := dict
  "version" 1
  "release" (include "tfrun.name" .)
  "run" (include "tfrun.run.id" .)
  "mode" .Values.mode
  "replicas" $replicas
  "maxReplicas" (dict "worker" (int64 .Values.worker.maxReplicas))
  "addresses" (dict "host" $host "port" (int64 .Values.port))
  "program" (include "tfrun.run.program" . | fromJson)
  "code" (merge (dict "timeout" (int64 .Values.code.timeout) "refresh" .Values.code.refresh) (include "tfrun.run.code" . | fromJson))
  "success" .Values.success
  "chiefFirst" .Values.chiefFirst
  "checkpoints" .Values.checkpoints
  "hangTimeout" (int64 .Values.hangTimeout)
  "deadline" (int64 .Values.deadline)
  "logs" .Values.logs
  "restarts" .Values.restarts
  "grace" (int64 .Values.grace)
  "cleanup" .Values.cleanup
  "pods" (include "tfrun.task.pods.hash" .) }}
{{- toPrettyJson $job }}
{{- end }}

{{/* Covers job.json and the whole Job: a Job is immutable, so any change needs a new one. It covers
neither itself nor comments. */}}
{{- define "tfrun.controller.job.hash" -}}
{{- $spec := include "tfrun.controller.job.spec" (dict "root" . "hash" "") | fromYaml | toJson }}
{{- printf "%s\n%s" (include "tfrun.controller.configmap.json" .) $spec | sha256sum | trunc 8 }}
{{- end }}
