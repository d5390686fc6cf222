{{- define "keyturn.labels" -}}
{{ include "keyturn.selector" . }}
{{ include "keyturn.commonLabels" . }}
{{- end }}

{{- define "keyturn.commonLabels" -}}
app.kubernetes.io/part-of: keyturn
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "keyturn.selector" -}}
app.kubernetes.io/name: keyturn-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels of what rotates keys on a schedule: the Deployment and its Service must not select these pods. */ -}}
{{- define "keyturn.scheduleLabels" -}}
{{ include "keyturn.scheduleSelector" . }}
{{ include "keyturn.commonLabels" . }}
{{- end }}

{{- define "keyturn.scheduleSelector" -}}
app.kubernetes.io/name: keyturn-rotate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The image of a program: (list $ .Values.image). */ -}}
{{- define "keyturn.image" -}}
{{- $image := index . 1 }}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 0).Chart.AppVersion) }}
{{- end }}

{{- /* The admission policies name the service account of the controller. */ -}}
{{- define "keyturn.checkNamespace" -}}
{{- if ne .Release.Namespace "keyturn-system" }}
{{- $why := "the admission policies let only its service account keyturn-controller write keys" }}
{{- fail (printf "install this chart in namespace keyturn-system: %s" $why) }}
{{- end }}
{{- end }}

{{- /* The objects of a stream of YAML documents, as the member "objects" of a YAML object. */ -}}
{{- define "keyturn.objects" -}}
{{- $objects := list }}
{{- range splitList "\n---\n" (printf "\n%s" .) }}
{{- with fromYaml . }}
{{- $objects = append $objects . }}
{{- end }}
{{- end }}
{{- toYaml (dict "objects" $objects) }}
{{- end }}
