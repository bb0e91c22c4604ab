{{/*
Checks what values.schema.json cannot, and lists all mistakes in one message:
`<path> must be <rule>: <reason>; got <value>. <What to do.>`

Each part prints its mistakes as a JSON list.
*/}}
{{- define "tfrun.validate" -}}
{{- $wrong := list }}
{{- range $part := list "dependency" "release" "replicas" "program" "code" "folders" "pod" "env" "volumes" "launcher" }}
{{- $wrong = concat $wrong (include (printf "tfrun.validate.%s" $part) $ | fromJsonArray) }}
{{- end }}
{{- if $wrong }}
{{- $count := len $wrong }}
{{- printf "\n\n%d %s:\n\n- %s\n" $count (eq $count 1 | ternary "value is wrong" "values are wrong") (join "\n- " $wrong) | fail }}
{{- end }}
{{- end }}

{{/* Where a condition or a tag of an umbrella chart reads `enabled`, false means that this chart is not rendered. */}}
{{- define "tfrun.validate.dependency" -}}
{{- $wrong := list }}
{{- if eq (.Values.enabled | toString) "false" }}
{{- $wrong = append $wrong "enabled must be true or left out: only the `condition` of a dependency in an umbrella chart's Chart.yaml reads it, and none did; got false. Add the condition, or remove the chart." }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{/* Kubernetes labels a StatefulSet's pods with its name, a hyphen and a hash of up to 10 characters. A label
has at most 63 characters, so RELEASE-ROLE may have 52. */}}
{{- define "tfrun.validate.release" -}}
{{- $wrong := list }}
{{- $name := include "tfrun.name" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- $wrong = append $wrong (printf "the release name must be lower-case letters, digits and hyphens, a letter first and no hyphen last: Services are named after it; got %q. Choose another name." $name) }}
{{- end }}
{{- $longest := "" }}
{{- range $role := include "tfrun.roles" . | splitList " " }}
{{- $longest = gt (len $role) (len $longest) | ternary $role $longest }}
{{- end }}
{{- $most := sub 51 (len $longest) | int }}
{{- if gt (len $name) $most }}
{{- $wrong = append $wrong (printf "the release name must be at most %d characters: Kubernetes puts the name of the StatefulSet %s-%s into a label of its pods; got %d characters. Choose a shorter name." $most $name $longest (len $name)) }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{- define "tfrun.validate.replicas" -}}
{{- $wrong := list }}
{{- $worker := eq .Values.mode "coordinator" | ternary "the chief sends its steps to workers" "workers run the program" }}
{{- $why := dict "ps" "ps tasks keep the variables" "worker" $worker }}
{{- $instead := dict "ps" " Only mode all-reduce needs no ps." }}
{{- range $role := without (include "tfrun.mode.roles" . | splitList " ") "chief" }}
{{- $replicas := (index $.Values $role).replicas }}
{{- if lt (int64 $replicas) 1 }}
{{- $wrong = append $wrong (printf "%s.replicas must be 1 or more: %s; got %s.%s" $role (get $why $role) (toJson $replicas) (get $instead $role)) }}
{{- end }}
{{- end }}
{{- with int64 .Values.worker.maxReplicas }}
{{- if ne $.Values.mode "parameter-server" }}
{{- $wrong = append $wrong (printf "worker.maxReplicas must be 0 in mode %s: tasks restart there when the size changes; got %d. Remove it." $.Values.mode .) }}
{{- else if lt . (int64 $.Values.worker.replicas) }}
{{- $wrong = append $wrong (printf "worker.maxReplicas must be 0, or at least worker.replicas (%d): it is how many workers the ClusterSpec lists; got %d. Raise it; this restarts all tasks once." (int64 $.Values.worker.replicas) .) }}
{{- end }}
{{- end }}
{{- with .Values.evaluator.replicas }}
{{- if ne (int64 .) 1 }}
{{- $wrong = append $wrong (printf "evaluator.replicas must be 0 or 1: TensorFlow supports only one evaluator; got %s." (toJson .)) }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{- define "tfrun.validate.program" -}}
{{- $wrong := list }}
{{- with .Values.program }}
{{- if not .command }}
{{- $wrong = append $wrong (printf "program.command must be a list of at least one word: it starts the program; got %s. Set it, for example to [python, train.py]." (toJson .command)) }}
{{- end }}
{{- if or (isAbs .workingDir) (has ".." (splitList "/" .workingDir)) }}
{{- $wrong = append $wrong (printf "program.workingDir must be a folder inside the code folder: the program runs in the task's copy of it; got %q. Make it relative to the code folder, without .. parts." .workingDir) }}
{{- end }}
{{- $words := dict }}
{{- range $key := list "command" "args" }}
{{- range $i, $word := index $.Values.program $key }}
{{- $_ := set $words (printf "program.%s[%d]" $key $i) $word }}
{{- end }}
{{- end }}
{{- range $name, $value := .env }}
{{- $_ := set $words (printf "program.env.%s" $name) $value }}
{{- end }}
{{- range $path, $word := $words }}
{{- if not (or (kindIs "string" $word) (kindIs "bool" $word)) }}
{{- if or (ge (float64 $word) 9007199254740992.0) (le (float64 $word) -9007199254740992.0) }}
{{- $wrong = append $wrong (printf "%s must be quoted: Helm rounds numbers from 2^53 (9007199254740992) on; got %s. Write all its digits between quotes, or use --set-string." $path (toJson $word)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .env }}
{{- if not (regexMatch "^[A-Za-z_][A-Za-z0-9_]*$" $name) }}
{{- $wrong = append $wrong (printf "program.env must be names of letters, digits and underscores, no digit first: shells accept no others; got %q. Rename it." $name) }}
{{- end }}
{{- if include "tfrun.validate.reserved" $name }}
{{- $wrong = append $wrong (printf "program.env must be without %s: the launcher sets it for each task; got %s. Remove it." $name (toJson $value)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{/* "yes" for a variable that the launcher sets for the program, else empty. */}}
{{- define "tfrun.validate.reserved" -}}
{{- if or (hasPrefix "TFRUN_" .) (has . (list "TF_CONFIG" "CHIEF_HOSTS" "PS_HOSTS" "WORKER_HOSTS" "JOB_NAME" "TASK_INDEX")) }}yes{{ end }}
{{- end }}

{{- define "tfrun.validate.code" -}}
{{- $wrong := list }}
{{- $code := include "tfrun.run.code" . | fromJson }}
{{- $given := omit $code "requirements" "digest" }}
{{- if ne (len $given) 1 }}
{{- $got := list }}
{{- range $source := keys $given | sortAlpha }}
{{- $got = append $got (printf "code.%s" $source) }}
{{- end }}
{{- $wrong = append $wrong (printf "code must be exactly one source: tasks take the program from it; got %s. Fill in one of code.nfs (an NFS export that every node can mount), code.claim (a PersistentVolumeClaim), code.archive (the address of a tar or zip), code.git (a commit of a repository), code.inline (files in the values) and code.image.path (a folder of the image, or the mountPath of one of volumes)." ($got | join " and " | default "none")) }}
{{- end }}
{{- with $given.nfs }}
{{- if not .server }}
{{- $wrong = append $wrong `code.nfs.server must be a host name or an address: the kubelet mounts code.nfs.path from there; got "".` }}
{{- end }}
{{- if not (isAbs (.path | default "")) }}
{{- $wrong = append $wrong (printf "code.nfs.path must be an absolute path: it names a folder that the server exports; got %q." (.path | default "")) }}
{{- end }}
{{- end }}
{{- with $given.claim }}
{{- if not .name }}
{{- $wrong = append $wrong `code.claim.name must be the name of a PersistentVolumeClaim in the release's namespace: the kubelet mounts it; got "".` }}
{{- end }}
{{- with .subPath }}
{{- if not (include "tfrun.validate.inside" .) }}
{{- $wrong = append $wrong (printf "code.claim.subPath must be a folder inside the claim: tasks take the program from it; got %q. Write it like src/app, without . or .. parts." .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $host := `(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9._-]*)(:[0-9]{1,5})?` }}
{{- with $given.archive }}
{{- $address := printf "^(https?://%s([/?][!-~]*)?|file:///\\S+)$" $host }}
{{- if not (regexMatch $address (.url | default "")) }}
{{- with include "tfrun.validate.meant" (dict "url" .url "address" $address) }}
{{- $wrong = append $wrong (printf "code.archive.url must be %s: tasks need the scheme; got %q." . $given.archive.url) }}
{{- else }}
{{- $wrong = append $wrong (printf "code.archive.url must be an http, https or file address without a password: each task fetches it, and everybody can read the values; got %q. Put a password into a Secret and name it as code.secret." (.url | default "")) }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^[0-9a-f]{64}$" (.sha256 | default "")) }}
{{- $wrong = append $wrong (printf "code.archive.sha256 must be 64 lower-case hexadecimal digits: tasks verify the archive by it; got %q. `sha256sum FILE` prints it." (.sha256 | default "")) }}
{{- end }}
{{- end }}
{{- with $given.git }}
{{- $address := printf "^(https?://%s/[!-~]+|ssh://([!-.0-9;-?A-~]+@)?%s/\\S+|file:///\\S+)$" $host $host }}
{{- if not (regexMatch $address (.url | default "")) }}
{{- with include "tfrun.validate.meant" (dict "url" .url "address" $address) }}
{{- $wrong = append $wrong (printf "code.git.url must be %s: tasks need the scheme; got %q." . $given.git.url) }}
{{- else }}
{{- $wrong = append $wrong (printf "code.git.url must be an https, http, ssh or file address without a password: each task fetches it, and everybody can read the values; got %q. Put a password into a Secret and name it as code.secret." (.url | default "")) }}
{{- end }}
{{- end }}
{{- if or (not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9._/+-]*$" (.ref | default ""))) (contains ".." (.ref | default "")) }}
{{- $wrong = append $wrong (printf "code.git.ref must be a branch, a tag, or a whole commit id: all tasks fetch it; got %q. `git rev-parse BRANCH` prints a commit id, which never changes." (.ref | default "")) }}
{{- end }}
{{- end }}
{{- with $given.inline }}
{{- range $name, $text := . }}
{{- if not (include "tfrun.validate.inside" $name) }}
{{- $wrong = append $wrong (printf "code.inline must be files by names inside the code folder: tasks write them there; got %q. Write names like src/train.py, without . or .. parts." $name) }}
{{- end }}
{{- range $other := keys $given.inline | sortAlpha }}
{{- if hasPrefix (printf "%s/" $name) $other }}
{{- $wrong = append $wrong (printf "code.inline must be files, none of them a folder of another: a name cannot be both; got %q and %q. Rename one." $name $other) }}
{{- end }}
{{- end }}
{{- end }}
{{- $size := toJson . | len }}
{{- if gt $size 163840 }}
{{- $wrong = append $wrong (printf "code.inline must be at most 163840 bytes: Helm keeps it up to three times in a Secret of 1 MiB; got %d bytes. Use another source." $size) }}
{{- end }}
{{- end }}
{{- with $given.image }}
{{- if not (isAbs .path) }}
{{- $wrong = append $wrong (printf "code.image.path must be an absolute path: it is a folder in the container; got %q." .path) }}
{{- end }}
{{- end }}
{{- with $code.digest }}
{{- if $given.image }}
{{- $wrong = append $wrong (printf "code.digest must be empty with code.image.path: tasks use that code in place; got %q. Remove it; image.digest pins the image." .) }}
{{- else if not (regexMatch "^[0-9a-f]{32}$" .) }}
{{- $wrong = append $wrong (printf "code.digest must be 32 hexadecimal digits: tasks refuse other code; got %q. The log of a task shows it: `code DIGEST is in ...`." .) }}
{{- end }}
{{- end }}
{{- with .Values.code.secret }}
{{- if not (or $given.archive $given.git) }}
{{- $wrong = append $wrong (printf "code.secret must be empty unless code.archive or code.git is the source: other sources need no login; got %q. Remove it." .) }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{/* What a url without a scheme means, if that is an address; else empty. launcher/shared/sources.py has the
same list. Takes (dict "url" "..." "address" "REGEX"). */}}
{{- define "tfrun.validate.meant" -}}
{{- $url := .url | default "" }}
{{- $meant := "" }}
{{- if regexMatch "^/[^/]" $url }}
{{- $meant = printf "file://%s" $url }}
{{- else if regexMatch `^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+(:[0-9]{1,5})?/` $url }}
{{- $meant = printf "https://%s" $url }}
{{- else }}
{{- $meant = regexReplaceAll `^(([!-.0-9;-?A-~]+@)?[A-Za-z0-9_][A-Za-z0-9._-]*):/?([A-Za-z0-9_~.-][^@:]*)$` $url "ssh://${1}/${3}" }}
{{- end }}
{{- if regexMatch .address $meant }}{{ $meant }}{{ end }}
{{- end }}

{{/* "yes" for a relative path that stays inside its folder, else empty. */}}
{{- define "tfrun.validate.inside" -}}
{{- $parts := splitList "/" . }}
{{- if not (or (has "" $parts) (has "." $parts) (has ".." $parts)) }}yes{{ end }}
{{- end }}

{{/* Folders that only the launcher uses. */}}
{{- define "tfrun.validate.folders" -}}
{{- $wrong := list }}
{{- with .Values.checkpoints }}
{{- if not (isAbs .) }}
{{- $wrong = append $wrong (printf "checkpoints must be an absolute path: the launcher watches that folder in the chief's container; got %q. Leave it empty if checkpoints go elsewhere, such as to a bucket." .) }}
{{- end }}
{{- end }}
{{- with .Values.logs }}
{{- $kept := false }}
{{- range $.Values.volumes }}
{{- if and .mountPath (not .readOnly) (hasPrefix (clean .mountPath | printf "%s/") (clean $.Values.logs | printf "%s/")) }}
{{- $kept = true }}
{{- end }}
{{- end }}
{{- if not $kept }}
{{- $wrong = append $wrong (printf "logs must be inside the mountPath of one of volumes that is not readOnly: elsewhere the output is lost with its pod; got %q." .) }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{/* The API server would refuse a field that is given twice, or silently keep the wrong one. */}}
{{- define "tfrun.validate.pod" -}}
{{- $wrong := list }}
{{- $instead := dict
  "automountServiceAccountToken" "Only the controller may use the API: see controller.rbac."
  "containers" "See image, program, env and volumes; more containers can be initContainers with restartPolicy: Always."
  "enableServiceLinks" "Remove it."
  "hostname" "Remove it."
  "imagePullSecrets" "See imagePullSecrets."
  "restartPolicy" "See restarts."
  "securityContext" "See podSecurityContext."
  "serviceAccount" "Remove it."
  "serviceAccountName" "Remove it."
  "subdomain" "Remove it."
  "terminationGracePeriodSeconds" "See grace."
  "volumes" "See volumes." }}
{{- $pods := dict "pod" .Values.pod "controller.pod" .Values.controller.pod }}
{{- range $role := include "tfrun.roles" . | splitList " " }}
{{- $_ := set $pods (printf "%s.pod" $role) (index $.Values $role).pod }}
{{- end }}
{{- range $path, $fields := $pods }}
{{- range $field, $value := $fields }}
{{- if hasKey $instead $field }}
{{- $wrong = append $wrong (printf "%s must be without %s: the chart sets it; got %s. %s" $path $field (toJson $value) (get $instead $field)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{- define "tfrun.validate.env" -}}
{{- $wrong := list }}
{{- $seen := list }}
{{- range $i, $variable := .Values.env }}
{{- if or (include "tfrun.validate.reserved" .name) (has .name (list "HOME" "USER" "PYTHONUNBUFFERED")) }}
{{- $wrong = append $wrong (printf "env[%d].name must be another name: the chart or the launcher sets this one; got %q. Rename it; HOME, USER and PYTHONUNBUFFERED can be set in program.env." $i .name) }}
{{- end }}
{{- if has .name $seen }}
{{- $wrong = append $wrong (printf "env[%d].name must be unique: Kubernetes merges the list by name; got %q again." $i .name) }}
{{- end }}
{{- $seen = append $seen .name }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{- define "tfrun.validate.volumes" -}}
{{- $wrong := list }}
{{- $names := list }}
{{- $paths := list }}
{{- range $i, $volume := .Values.volumes }}
{{- $at := printf "volumes[%d]" $i }}
{{- $name := .name | default "" }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" $name) }}
{{- $wrong = append $wrong (printf "%s.name must be 1 to 63 lower-case letters, digits and hyphens: Kubernetes requires it; got %q." $at $name) }}
{{- else if hasPrefix "tfrun-" $name }}
{{- $wrong = append $wrong (printf "%s.name must be without the prefix tfrun-: the chart's own volumes have it; got %q." $at $name) }}
{{- else if has $name $names }}
{{- $wrong = append $wrong (printf "%s.name must be unique: a pod tells its volumes apart by name; got %q again." $at $name) }}
{{- end }}
{{- $names = append $names $name }}
{{- $path := .mountPath | default "" }}
{{- if not (isAbs $path) }}
{{- $wrong = append $wrong (printf "%s.mountPath must be an absolute path: it is a folder in the container; got %q." $at $path) }}
{{- else if regexMatch "^/(tfrun(/|$)|$)" (clean $path) }}
{{- $wrong = append $wrong (printf "%s.mountPath must be outside /tfrun: the launcher runs there; got %q." $at $path) }}
{{- else if has (clean $path) $paths }}
{{- $wrong = append $wrong (printf "%s.mountPath must be unique: one volume would hide the other; got %q again." $at $path) }}
{{- end }}
{{- $paths = append $paths (clean $path) }}
{{- $sources := omit $volume "name" "mountPath" "readOnly" "subPath" }}
{{- $kinds := list }}
{{- range $sources }}
{{- $kinds = append $kinds (kindOf .) }}
{{- end }}
{{- if or (ne (len $sources) 1) (ne (without $kinds "map" | len) 0) }}
{{- $wrong = append $wrong (printf "%s must be one Kubernetes volume source besides name, mountPath, readOnly and subPath: Kubernetes mounts it; got %s. Give one mapping, like persistentVolumeClaim: {claimName: data}." $at (empty $sources | ternary "none" (toJson $sources))) }}
{{- end }}
{{- end }}
{{- toJson $wrong }}
{{- end }}

{{/* Where Git cannot make symbolic links, as on some Windows machines, it makes plain files instead. */}}
{{- define "tfrun.validate.launcher" -}}
{{- $wrong := list }}
{{- if and .Values.launcher.inject (not (.Files.Glob "launcher/*.py")) }}
{{- $wrong = append $wrong "launcher.inject must be false: this copy of the chart holds no launcher (launcher/*.py); got true. Use a released chart, or check the repository out with symbolic links." }}
{{- end }}
{{- toJson $wrong }}
{{- end }}
