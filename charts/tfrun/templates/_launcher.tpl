{{/*
Renders the launcher's files for the pods of one side: `task` or `controller`.

Each package of launcher/ runs on one side or on both (launcher/__init__.py), so a side is a list of
packages; `.` means the top files, __init__.py and __main__.py. A ConfigMap's keys cannot hold slashes, so
launcher/task/step.py has the key task.step.py.
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
