{{/*
Renders the launcher's files that the pods of one side need. A side is `task` or `controller`.

A package of launcher/ says where its code runs (launcher/__init__.py), so a side is a list of
packages; `.` stands for the files at the top, __init__.py and __main__.py. A ConfigMap's keys have no
folders: launcher/task/step.py is the key task.step.py.
*/}}

{{/* Takes (dict "root" $ "side" "task"). */}}
{{- define "tfrun.launcher.configmap.data" -}}
{{- $packages := get (dict "task" "shared task code" "controller" "shared controller decisions") .side }}
{{- $data := dict }}
{{- range $package := prepend (splitList " " $packages) "." }}
{{- range $path, $content := $.root.Files.Glob (clean (printf "launcher/%s/*.py" $package)) }}
{{- $_ := set $data (trimPrefix "launcher/" $path | replace "/" ".") (toString $content) }}
{{- end }}
{{- end }}
{{- toYaml $data }}
{{- end }}
