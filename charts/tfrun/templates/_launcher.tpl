{{/*
Renders the launcher's files: one ConfigMap for each package of launcher/, and a volume that joins those
that a pod runs (launcher/__init__.py). `shared` brings the top files, __init__.py and __main__.py.
*/}}

{{/* The packages that the pods of a side run, separated by spaces. Takes the side: task or controller. */}}
{{- define "tfrun.launcher.packages" -}}
{{ get (dict "task" "shared task code" "controller" "shared controller decisions") . }}
{{- end }}

{{/* The files of a package. A ConfigMap's keys cannot hold slashes, so launcher/task/step.py has the key
task.step.py. Takes (dict "root" $ "package" "task"). */}}
{{- define "tfrun.launcher.configmap.data" -}}
{{- $data := dict }}
{{- range $folder := eq .package "shared" | ternary (list "shared" ".") (list .package) }}
{{- range $path, $content := $.root.Files.Glob (clean (printf "launcher/%s/*.py" $folder)) }}
{{- $_ := set $data (trimPrefix "launcher/" $path | replace "/" ".") (toString $content) }}
{{- end }}
{{- end }}
{{- toYaml $data }}
{{- end }}

{{- define "tfrun.launcher.volumeMount" -}}
- name: tfrun-launcher
  mountPath: /tfrun/launcher
  readOnly: true
{{- end }}

{{/* Maps each key of the ConfigMaps back to its path. Takes (dict "root" $ "side" "task"). */}}
{{- define "tfrun.launcher.volume" -}}
- name: tfrun-launcher
  projected:
    sources:
      {{- range $package := include "tfrun.launcher.packages" .side | splitList " " }}
      {{- $launcher := dict "root" $.root "package" $package }}
      - configMap:
          name: {{ include "tfrun.launcher.configmap.name" $launcher }}
          items:
            {{- range $key := include "tfrun.launcher.configmap.data" $launcher | fromYaml | keys | sortAlpha }}
            - key: {{ $key }}
              path: {{ trimSuffix ".py" $key | replace "." "/" }}.py
            {{- end }}
      {{- end }}
{{- end }}
