{{- define "socadapter.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Room is left for the endings that objects have: a name has 63 characters at most. */ -}}
{{- define "socadapter.fullname" -}}
{{- $name := include "socadapter.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "socadapter.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "socadapter.fullname" .) -}}
{{- end -}}

{{- define "socadapter.selector" -}}
app.kubernetes.io/name: {{ include "socadapter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "socadapter.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: socadapter
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "socadapter.labels" -}}
{{ include "socadapter.selector" . }}
{{ include "socadapter.commonLabels" . }}
{{- end -}}

{{- /* The same with labels of one kind of object, which win over those of all: (dict "labels" LABELS "root" $). */ -}}
{{- define "socadapter.labelsWith" -}}
{{- toYaml (merge (deepCopy .labels) (include "socadapter.labels" .root | fromYaml)) -}}
{{- end -}}

{{- /* The reference of an image: (dict "image" VALUES "root" $). */ -}}
{{- define "socadapter.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{- .image.repository }}:{{ $tag }}{{ with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "socadapter.pullPolicy" -}}
{{- .Values.image.pullPolicy | default (ternary "IfNotPresent" "Always" (ne .Values.image.digest "")) -}}
{{- end -}}

{{- /* The port of the trace collector: the one that its address names, or that of its scheme. A list, in JSON. */ -}}
{{- define "socadapter.tracePorts" -}}
{{- $ports := list -}}
{{- with .Values.tracing.endpoint -}}
{{- $named := urlParse . | dig "host" "" | regexFind ":[0-9]+$" | trimPrefix ":" -}}
{{- $ports = list (int ($named | default (hasPrefix "https:" . | ternary "443" "80"))) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- define "socadapter.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
{{- end }}
{{- with .Values.fsGroup }}
fsGroup: {{ int . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "socadapter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* What the operator does to objects of a watched namespace: each verb is one that its code uses. */ -}}
{{- define "socadapter.rules" -}}
- apiGroups: [socadapter.io]
  resources: [socadapters, socservingpools]
  verbs: [get, list, watch, patch]
- apiGroups: [socadapter.io]
  resources: [socadapterversions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [socadapter.io]
  resources: [socadapters/status, socservingpools/status, socadapterversions/status]
  verbs: [patch]
{{- if .Values.rbac.finalizers }}
- apiGroups: [socadapter.io]
  resources: [socadapters/finalizers, socservingpools/finalizers]
  verbs: [update]
{{- end }}
- apiGroups: [ray.io]
  resources: [rayjobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
# Secrets that pools name, signing keys, Ray's tokens: found by label to be removed, never watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, create, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "socadapter.testSelector" -}}
app.kubernetes.io/name: {{ include "socadapter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}
