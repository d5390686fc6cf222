package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

const adminCategory = "Admin Cluster"

// oldest is the oldest Kubernetes that serves the API of Keyturn.
var oldest = version.MustParseGeneric("1.35.0")

// versionLabel is the one with the version of a program.
const versionLabel = "app.kubernetes.io/version"

func checkAdminServer(f Facts) *Check {
	c := newCheck(adminCategory, "Kubernetes API")
	if err := f.Admin.Server.Err; err != nil {
		return c.fail("check the kubeconfig, and that the admin cluster runs; "+f.Down,
			"the admin cluster does not answer: %v", err)
	}
	text := f.Admin.Server.Value.Version
	c.saw("%s", text)
	if v, err := version.ParseGeneric(text); err == nil && v.LessThan(oldest) {
		c.fail("upgrade the admin cluster", "version %s is older than 1.%d, the oldest that Keyturn works with", text,
			oldest.Minor())
	}
	return c
}

func checkAdminClock(f Facts) *Check {
	if f.Admin.Server.Err != nil {
		return nil
	}
	return checkClock(newCheck(adminCategory, "clock"), f.Admin.Server.Value.Skew, "this machine")
}

// checkClock compares a clock with another.
func checkClock(c *Check, skew time.Duration, other string) *Check {
	if skew.Abs() > maxSkew {
		return c.warn(clockAdvice, "the clock of the API server is %s that of %s", apart(skew), other)
	}
	return c
}

// apart is in words how far a clock is ahead of another.
func apart(skew time.Duration) string {
	if skew < 0 {
		return (-skew).Round(time.Second).String() + " behind"
	}
	return skew.Round(time.Second).String() + " ahead of"
}

func checkRights(f Facts) *Check {
	if f.Admin.Server.Err != nil {
		return nil
	}
	c := newCheck(adminCategory, "your permissions")
	if c.unread(f.Admin.Rights.Err, "", "your permissions") {
		return c
	}
	for _, r := range f.Admin.Rights.Value {
		if !r.Allowed {
			c.warn("without that you cannot "+r.For, "you may not %s", r.Words)
		}
	}
	return c
}

func checkDefinition(f Facts) *Check {
	return f.checkInstalled("CustomResourceDefinition", "CustomResourceDefinition")
}

func checkPolicies(f Facts) *Check {
	return f.checkInstalled("admission policies", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
}

// checkInstalled compares the installed objects of some kinds with those of this program.
func (f Facts) checkInstalled(name string, kinds ...string) *Check {
	if f.Admin.Server.Err != nil {
		return nil
	}
	c := newCheck(adminCategory, name)
	for _, i := range f.Admin.Installed {
		if slices.Contains(kinds, i.Wanted.GetKind()) {
			c.installed(i, f.Program)
		}
	}
	return c
}

// installed compares one installed object with that of this program.
func (c *Check) installed(i Installed, program string) {
	what := i.Wanted.GetKind() + " " + i.Wanted.GetName()
	found := i.Found.Value
	switch {
	case apierrors.IsNotFound(i.Found.Err):
		c.fail("install Keyturn, or upgrade it by its Helm chart", "%s does not exist", what)
	case c.unread(i.Found.Err, "", what):
	case !has(found.Object, i.Wanted.Object):
		c.warn("use programs of one version: upgrade Keyturn in the cluster, or this program",
			"%s is not the one of this program, version %s", what, program)
	case found.GetKind() == "CustomResourceDefinition" && !established(found):
		c.fail("see the conditions of the CustomResourceDefinition", "%s is not established", what)
	default:
		for _, text := range typeWarnings(found) {
			c.warn("upgrade Keyturn to a version that knows this Kubernetes", "%s: %s", what, text)
		}
	}
}

// has reports whether an object has everything that is wanted of it. The API server may have added to it.
func has(found, wanted any) bool {
	switch wanted := wanted.(type) {
	case nil:
		return true
	case map[string]any:
		object, ok := found.(map[string]any)
		for field, value := range wanted {
			if !ok || !has(object[field], value) {
				return false
			}
		}
		return ok || len(wanted) == 0
	case []any:
		list, ok := found.([]any)
		if !ok || len(list) != len(wanted) {
			return len(wanted) == 0 && found == nil
		}
		for n := range wanted {
			if !has(list[n], wanted[n]) {
				return false
			}
		}
		return true
	}
	return fmt.Sprint(found) == fmt.Sprint(wanted)
}

func established(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Established" && m["status"] == "True"
	})
}

// typeWarnings are what the API server says of expressions of a policy that do not fit its types.
func typeWarnings(o *unstructured.Unstructured) (all []string) {
	warnings, _, _ := unstructured.NestedSlice(o.Object, "status", "typeChecking", "expressionWarnings")
	for _, w := range warnings {
		if m, ok := w.(map[string]any); ok {
			all = append(all, fmt.Sprintf("%v: %v", m["fieldRef"], m["warning"]))
		}
	}
	return all
}

// ControllerName names the Deployment and the Lease of keyturn-controller.
const ControllerName = "keyturn-controller"

func checkDeployment(f Facts) *Check {
	if f.Admin.Server.Err != nil {
		return nil
	}
	c := newCheck(adminCategory, "controller Deployment")
	d := f.Admin.Deployment.Value
	what := "Deployment " + v1alpha1.SystemNamespace + "/" + ControllerName
	switch {
	case apierrors.IsNotFound(f.Admin.Deployment.Err):
		return c.skip("", "there is no %s: the controller runs elsewhere, as that of a local admin cluster does", what)
	case c.unread(f.Admin.Deployment.Err, "", what):
		return c
	}
	wanted, ready := int32(1), d.Status.ReadyReplicas
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	c.saw("%d of %d pods ready, version %s", ready, wanted, d.Labels[versionLabel])
	advice := "`kubectl --namespace " + v1alpha1.SystemNamespace + " describe pods` shows why"
	switch {
	case ready == 0:
		c.fail(advice, "no pod of %s is ready", what)
	case ready < wanted:
		c.warn(advice, "only %d of %d pods of %s are ready", ready, wanted, what)
	}
	if own := d.Labels[versionLabel]; strings.HasPrefix(f.Program, "v") && strings.HasPrefix(own, "v") &&
		own != f.Program {
		c.warn("use programs of one version", "%s is of version %s, and this program of %s", what, own, f.Program)
	}
	for _, p := range f.Admin.Pods.Value {
		for _, s := range p.Status.ContainerStatuses {
			if why := stuck(s); why != "" {
				c.warn(advice, "container %s of pod %s %s", s.Name, p.Name, why)
			}
		}
	}
	return c
}

// stuck is why a container does not run; empty when it does or is about to.
func stuck(s corev1.ContainerStatus) string {
	if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
		return fmt.Sprintf("waits: %s: %s", w.Reason, w.Message)
	}
	if l := s.LastTerminationState.Terminated; l != nil && s.RestartCount > 0 && !s.Ready {
		return fmt.Sprintf("was started %d times; it ended with exit code %d: %s", s.RestartCount+1, l.ExitCode, l.Reason)
	}
	return ""
}

func checkLease(f Facts) *Check {
	if f.Admin.Server.Err != nil {
		return nil
	}
	c := newCheck(adminCategory, "controller Lease")
	const advice = "start keyturn-controller; its log says why it does not run"
	l := f.Admin.Lease.Value
	what := "Lease " + v1alpha1.SystemNamespace + "/" + ControllerName
	switch {
	case apierrors.IsNotFound(f.Admin.Lease.Err):
		return c.fail(advice, "there is no %s: no controller has worked in this cluster yet", what)
	case c.unread(f.Admin.Lease.Err, "", what):
		return c
	case l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" || l.Spec.RenewTime == nil:
		return c.fail(advice, "nobody holds %s: no controller works", what)
	}
	age := f.now().Sub(l.Spec.RenewTime.Time)
	c.saw("held by %s, renewed %s ago", *l.Spec.HolderIdentity, duration.HumanDuration(max(age, 0)))
	lasts := 15 * time.Second
	if s := l.Spec.LeaseDurationSeconds; s != nil {
		lasts = time.Duration(*s) * time.Second
	}
	if age > lasts+maxSkew {
		c.fail(advice, "%s was not renewed for %s: no controller works", what, duration.HumanDuration(age))
	}
	return c
}
