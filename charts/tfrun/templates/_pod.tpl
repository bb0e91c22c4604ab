{{/* What the pods of tasks and of the controller have in common. */}}

{{/* Takes (dict "root" $ "subcommand" "task"). */}}
{{- define "tfrun.pod.container" -}}
image: {{ include "tfrun.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
# Options instead of variables: -I hides all PYTHON* variables from the launcher; the program gets them.
command: [python3, -I, -u, -X, utf8, {{ .root.Values.launcher.inject | ternary "/tfrun/launcher" "-m, launcher" }}, {{ .subcommand }}]
workingDir: /tfrun
# The launcher writes how it ended. If it cannot start, Kubernetes takes its last lines of output.
terminationMessagePolicy: FallbackToLogsOnError
{{- with .root.Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tfrun.pod.spec" -}}
# Keeps variables for every Service of the namespace out of the program's environment.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The name of the volume that holds the code, if one does. A claim that is one of `volumes` is not named
again, because some kubelets never mount a claim that a pod names twice. */}}
{{- define "tfrun.source.volume" -}}
{{- $code := include "tfrun.run.code" . | fromJson }}
{{- if or $code.nfs $code.claim }}
{{- $name := "tfrun-source" }}
{{- range $volume := .Values.volumes }}
{{- $claim := $volume.persistentVolumeClaim }}
{{- if and $code.claim (kindIs "map" $claim) }}
{{- if eq (toString $claim.claimName) (toString $code.claim.name) }}
{{- $name = $volume.name }}
{{- end }}
{{- end }}
{{- end }}
{{- $name }}
{{- end }}
{{- end }}

{{/*
A task's pod template. The program, the counts and the policies are not in it. They reach the task
through the controller, so that a change of them keeps the pods.
*/}}
{{- define "tfrun.task.pod.template" -}}
{{- $root := .root }}
{{- $values := index $root.Values .role }}
{{- $code := include "tfrun.run.code" $root | fromJson }}
{{- $source := include "tfrun.source.volume" $root -}}
metadata:
  labels:
    {{- include "tfrun.task.selector" $root | nindent 4 }}
    tfrun/role: {{ .role }}
spec:
  serviceAccountName: {{ include "tfrun.task.serviceaccount.name" $root }}
  automountServiceAccountToken: false
  # The launcher ends the program within `grace`. The 5 seconds more are for the launcher itself.
  terminationGracePeriodSeconds: {{ add $root.Values.grace 5 }}
  {{- include "tfrun.pod.spec" $root | nindent 2 }}
  containers:
    - name: task
      {{- include "tfrun.pod.container" (dict "root" $root "subcommand" "task") | nindent 6 }}
      env:
        - name: TFRUN_ROLE
          value: {{ .role }}
        - name: TFRUN_POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: TFRUN_POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        # The StatefulSet's name for the template of this pod.
        - name: TFRUN_REVISION
          valueFrom:
            fieldRef:
              fieldPath: metadata.labels['controller-revision-hash']
        - name: TFRUN_CONTROLLER
          value: {{ printf "%s:%d" (include "tfrun.controller.service.name" $root) (int64 $root.Values.controller.port) | quote }}
        - name: TFRUN_WORK
          value: /tfrun/work
        {{- if $source }}
        - name: TFRUN_SOURCE
          value: /tfrun/source
        {{- end }}
        {{- if $root.Values.code.secret }}
        - name: TFRUN_SECRET
          value: /tfrun/secret
        {{- end }}
        # The image has neither a home nor a name for the user id, but Python and TensorFlow need both.
        - name: HOME
          value: /tfrun/work
        - name: USER
          value: tfrun
        - name: PYTHONUNBUFFERED
          value: "1"
        {{- with $root.Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: tensorflow
          containerPort: {{ int64 $root.Values.port }}
      {{- with $values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: tfrun-work
          mountPath: /tfrun/work
        {{- if $root.Values.launcher.inject }}
        {{- include "tfrun.launcher.volumeMount" $root | nindent 8 }}
        {{- end }}
        {{- with $source }}
        - name: {{ quote . }}
          mountPath: /tfrun/source
          readOnly: true
        {{- end }}
        {{- if $root.Values.code.secret }}
        - name: tfrun-secret
          mountPath: /tfrun/secret
          readOnly: true
        {{- end }}
        {{- range $root.Values.volumes }}
        {{- pick . "name" "mountPath" "readOnly" "subPath" | list | toYaml | nindent 8 }}
        {{- end }}
  volumes:
    - name: tfrun-work
      emptyDir: {}
    {{- if $root.Values.launcher.inject }}
    {{- include "tfrun.launcher.volume" (dict "root" $root "side" "task") | nindent 4 }}
    {{- end }}
    {{- if eq $source "tfrun-source" }}
    - name: tfrun-source
      {{- with $code.nfs }}
      nfs:
        {{- toYaml . | nindent 8 }}
        readOnly: true
      {{- else }}
      persistentVolumeClaim:
        claimName: {{ quote $code.claim.name }}
        readOnly: true
      {{- end }}
    {{- end }}
    {{- with $root.Values.code.secret }}
    - name: tfrun-secret
      secret:
        secretName: {{ quote . }}
        defaultMode: 0440
    {{- end }}
    {{- range $root.Values.volumes }}
    {{- omit . "mountPath" "readOnly" "subPath" | list | toYaml | nindent 4 }}
    {{- end }}
  {{- $fields := deepCopy ($root.Values.pod | default dict) }}
  {{- range $field, $value := $values.pod }}
  {{- $_ := set $fields $field $value }}
  {{- end }}
  {{- with $fields }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The controller's Job. Takes (dict "root" $ "hash" "..."). */}}
{{- define "tfrun.controller.job.spec" -}}
{{- $root := .root }}
{{- with $root.Values.controller -}}
completions: 1
parallelism: 1
# At most one controller runs: the next pod starts when the last has ended.
podReplacementPolicy: Failed
backoffLimit: 20
# The controller exits with the run's code. The run's failure is final; the controller's own is retried.
podFailurePolicy:
  rules:
    # Evicted, preempted, or its node is gone.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
    # Stopped by SIGTERM: its pod was deleted, or a younger controller leads.
    - action: Ignore
      onExitCodes:
        containerName: controller
        operator: In
        values: [143]
    # The controller itself failed, or was killed, for example because it took too much memory.
    - action: Count
      onExitCodes:
        containerName: controller
        operator: In
        values: [70, 137]
    - action: FailJob
      onExitCodes:
        containerName: controller
        operator: NotIn
        values: [70, 137, 143]
template:
  metadata:
    labels:
      {{- include "tfrun.controller.selector" $ | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "tfrun.controller.serviceaccount.name" $root }}
    automountServiceAccountToken: {{ .rbac }}
    terminationGracePeriodSeconds: 10
    {{- include "tfrun.pod.spec" $root | nindent 4 }}
    containers:
      - name: controller
        {{- include "tfrun.pod.container" (dict "root" $root "subcommand" "controller") | nindent 8 }}
        env:
          - name: TFRUN_JOB
            value: /tfrun/job/job.json
          - name: TFRUN_LISTEN
            value: {{ printf "0.0.0.0:%d" (int64 .port) | quote }}
          - name: TFRUN_NAMESPACE
            valueFrom:
              fieldRef:
                fieldPath: metadata.namespace
          {{- if .rbac }}
          - name: TFRUN_KUBERNETES
            value: "true"
          - name: TFRUN_HASH
            value: {{ quote $.hash }}
          {{- end }}
        ports:
          - name: http
            containerPort: {{ int64 .port }}
        # Only people need it, for `kubectl wait`: tasks retry until the controller answers.
        readinessProbe:
          tcpSocket:
            port: http
          periodSeconds: 1
        {{- with .resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        volumeMounts:
          - name: tfrun-job
            mountPath: /tfrun/job
            readOnly: true
          {{- if $root.Values.launcher.inject }}
          {{- include "tfrun.launcher.volumeMount" $root | nindent 10 }}
          {{- end }}
    volumes:
      - name: tfrun-job
        configMap:
          name: {{ printf "%s-%s" (include "tfrun.name" $root) $.hash }}
      {{- if $root.Values.launcher.inject }}
      {{- include "tfrun.launcher.volume" (dict "root" $root "side" "controller") | nindent 6 }}
      {{- end }}
    {{- with .pod }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
