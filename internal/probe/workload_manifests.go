package probe

import (
	"fmt"
	"io"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// workloadRate is how often per second the pods of further workloads use their tokens at each API server.
const workloadRate = 2

// mountDir is the directory in which the pods of Manifests mount tokens.
const mountDir = "/var/run/secrets/keyturn-probe/"

// writeWorkload writes the object that runs the pod of a workload, as YAML.
func (d Deployment) writeWorkload(w io.Writer, workload Workload) error {
	object := any(d.deployment(workload))
	if workload == CronJob {
		object = d.cronJob()
	}
	data, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "---\n%s", data)
	return err
}

// named returns the metadata of the objects of a workload. Their pods do not count for the disruption budget of the
// permanent ones.
func (d Deployment) named(w Workload) metav1.ObjectMeta {
	name := appName + "-" + string(w)
	return metav1.ObjectMeta{Namespace: d.Namespace, Name: name, Labels: map[string]string{labelApp: name}}
}

func (d Deployment) deployment(w Workload) *appsv1.Deployment {
	meta := d.named(w)
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: meta.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: d.podSpec(w)},
		},
	}
}

// cronJob starts a pod each minute. An evicted pod counts as neither failed nor done.
func (d Deployment) cronJob() *batchv1.CronJob {
	meta := d.named(CronJob)
	pod := d.podSpec(CronJob)
	pod.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.CronJob{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"}, ObjectMeta: meta,
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: pod},
				PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
					Action: batchv1.PodFailurePolicyActionIgnore,
					OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{
						Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
					}},
				}}},
			}},
		},
	}
}

// podSpec returns the pod of a workload. That of Sidecar also has a container of Once, since a pod needs a container
// that is not a sidecar.
func (d Deployment) podSpec(w Workload) corev1.PodSpec {
	spec := corev1.PodSpec{
		ServiceAccountName: appName, AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: new(int64(5)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(65532)), RunAsGroup: new(int64(65532)), FSGroup: new(int64(65532)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if w == Sidecar {
		sidecar := d.container(Sidecar, 8081)
		sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		spec.InitContainers = []corev1.Container{sidecar}
		w = Once
	}
	spec.Volumes = workloadVolumes(w)
	spec.Containers = []corev1.Container{d.container(w, 8080)}
	return spec
}

// container uses tokens in the way of a workload, and listens on a port.
func (d Deployment) container(w Workload, port int) corev1.Container {
	args := []string{
		"run", "--workload=" + string(w), fmt.Sprintf("--rate=%d", workloadRate), fmt.Sprintf("--listen=:%d", port),
	}
	if len(d.Servers) > 0 {
		args = append(args, "--api-servers="+d.ServerList())
	}
	c := corev1.Container{
		Name: string(w), Image: d.Image, ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
		Env: []corev1.EnvVar{
			fieldVariable("POD_NAME", "metadata.name"), fieldVariable("POD_NAMESPACE", "metadata.namespace"),
			fieldVariable("NODE_NAME", "spec.nodeName"),
		},
		VolumeMounts: workloadMounts(w),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	if w == Environment || w == Sidecar {
		c.Env = append(c.Env, corev1.EnvVar{Name: legacyTokenVariable, ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: defaults().LegacySecret},
				Key:                  corev1.ServiceAccountTokenKey,
			},
		}})
	}
	return c
}

func fieldVariable(name, path string) corev1.EnvVar {
	field := &corev1.ObjectFieldSelector{FieldPath: path}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: field}}
}

// mounts returns the volumes that a container of a workload mounts, below mountDir.
func (w Workload) mounts() []string {
	switch w {
	case Environment, Sidecar:
		return []string{"bound"} // by which each keeps its report
	case CronJob:
		return []string{"bound", "legacy", "third-party"}
	default:
		return []string{"bound", "legacy"}
	}
}

func workloadMounts(w Workload) (all []corev1.VolumeMount) {
	for _, name := range w.mounts() {
		m := corev1.VolumeMount{Name: name, MountPath: mountDir + name, ReadOnly: true}
		if w == SubPath && name == "legacy" {
			m.SubPath = corev1.ServiceAccountTokenKey
			m.MountPath += "/" + m.SubPath
		}
		all = append(all, m)
	}
	return all
}

func workloadVolumes(w Workload) (all []corev1.Volume) {
	for _, name := range w.mounts() {
		all = append(all, corev1.Volume{Name: name, VolumeSource: tokenVolume(name)})
	}
	return all
}

func tokenVolume(name string) corev1.VolumeSource {
	projection := corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(3600))}
	switch name {
	case "legacy":
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: defaults().LegacySecret}}
	case "third-party":
		projection.Audience = defaults().Audience
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &projection}},
		}}
	default:
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &projection},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
		}}}
	}
}
