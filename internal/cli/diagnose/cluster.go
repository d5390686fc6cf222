package diagnose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

const clusterCategory = "UserCluster"

// settled reports whether the status is about the latest spec, and no rotation runs.
func settled(uc *v1alpha1.UserCluster) bool {
	c := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKSASigningKeyRotation)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == uc.Generation
}

func checkObject(f Facts, own ClusterFacts) *Check {
	c, uc := newCheck(clusterCategory, "cluster object"), own.Object
	c.saw("on %s, keys from %s", uc.Spec.Infrastructure.Name(), uc.Spec.KeySource())
	if at := uc.DeletionTimestamp; at != nil {
		c.warn("see its condition Ready for what the deletion waits for", "it is being deleted, since %s",
			duration.HumanDuration(f.now().Sub(at.Time)))
	}
	if uc.Spec.EnableAdvancedCluster {
		c.fail("only clusters with enableAdvancedCluster: false can have their keys rotated", "it is an advanced cluster")
	}
	if uc.Status.ObservedGeneration < uc.Generation {
		c.warn("see the controller Lease, and the log of the controller",
			"the controller has not seen the latest change of its spec")
	}
	for _, reason := range []string{v1alpha1.AnnotationBreakGlass, v1alpha1.AnnotationLeavePublished,
		v1alpha1.AnnotationLeaveCluster} {
		if text := uc.Annotations[reason]; text != "" {
			c.warn("remove it when it is not needed any more", "it has the annotation %s: %s", reason, text)
		}
	}
	return c
}

func checkConditions(f Facts, own ClusterFacts) *Check {
	c, uc := newCheck(clusterCategory, "conditions"), own.Object
	key := uc.Status.KSASigningKey
	c.saw("status last written %s ago", f.since(statusWritten(uc)))
	ready := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil:
		c.fail("see the controller Lease, and the log of the controller", "the controller has not written a condition yet")
	case ready.Reason == v1alpha1.ReasonRotationBlocked:
		c.fail("do what the text says; nothing goes on until then", "the rotation is blocked: %s", ready.Message)
	case ready.Reason == v1alpha1.ReasonNotObserved:
		c.fail("docs/operations/recover.md names what to do", "the controller cannot observe the cluster: %s", ready.Message)
	case ready.Status != metav1.ConditionTrue:
		c.warn("no rotation can start until the cluster is ready", "not ready for %s: %s: %s",
			f.since(ready.LastTransitionTime.Time), ready.Reason, ready.Message)
	}
	if key.Step != "" && key.WaitingFor != "" {
		c.warn("", "step %s, which began %s ago, waits for %s", key.Step, f.sincePointer(key.StepSince), key.WaitingFor)
	}
	if k := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKubeconfig); k != nil &&
		k.Status != metav1.ConditionTrue {
		c.warn("docs/operations/recover.md names what to do", "the kubeconfig of the cluster is not kept: %s: %s", k.Reason,
			k.Message)
	}
	expired := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKSATokensExpired)
	if expired != nil && expired.Reason == v1alpha1.ReasonRetiredInUse {
		c.warn("restart what still uses such a token", "the last rotation retired a key that was in use: %s", expired.Message)
	}
	return c
}

// statusWritten is when the status was written last; the zero time if that is not known.
func statusWritten(uc *v1alpha1.UserCluster) (at time.Time) {
	for _, m := range uc.ManagedFields {
		if m.Subresource == "status" && m.Time != nil && m.Time.After(at) {
			at = m.Time.Time
		}
	}
	return at
}

// since is in words how long ago a time was.
func (f Facts) since(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return duration.HumanDuration(max(f.now().Sub(t), 0))
}

func (f Facts) sincePointer(t *metav1.Time) string {
	if t == nil {
		return f.since(time.Time{})
	}
	return f.since(t.Time)
}

func checkKeySecrets(_ Facts, own ClusterFacts) *Check {
	c, uc := newCheck(clusterCategory, "key Secrets"), own.Object
	if c.unread(own.Secrets.Err, "", "the metadata of Secrets of namespace "+uc.Namespace) {
		return c
	}
	var stored []string
	for _, s := range own.Secrets.Value {
		stored = append(stored, s.Labels[v1alpha1.LabelKeyVersion])
		if s.Labels[v1alpha1.LabelClusterUID] != uc.Identity() {
			c.warn("delete it if it is of a cluster of before", "Secret %s has the label of another cluster of this name",
				s.Name)
		}
	}
	slices.Sort(stored)
	c.saw("versions %s", strings.Join(stored, ", "))
	for _, k := range uc.Status.KSASigningKey.Keys {
		if !slices.Contains(stored, strconv.Itoa(int(k.Version))) {
			c.fail("restore it from a backup, as docs/operations/backup.md describes",
				"the Secret with key version %d is missing",
				k.Version)
		}
	}
	return c
}

// maxKeyAge is the age at which the alert of the Helm chart warns, unless its values say otherwise.
const maxKeyAge = 120 * 24 * time.Hour

func checkKeyAge(f Facts, own ClusterFacts) *Check {
	c := newCheck(clusterCategory, "age of the key")
	keys := own.Object.Status.KSASigningKey.Keys
	if len(keys) == 0 {
		return c.warn("wait for the controller to make or adopt one", "the cluster has no key version yet")
	}
	newest := slices.MaxFunc(keys, func(a, b v1alpha1.KeyVersionStatus) int { return int(a.Version - b.Version) })
	age := f.now().Sub(newest.CreatedAt.Time)
	c.saw("version %d, %s, %s", newest.Version, newest.Algorithm, duration.HumanDuration(max(age, 0)))
	if age > maxKeyAge {
		c.warn("rotate it, or have the schedule of the Helm chart do it", "key version %d is %s old", newest.Version,
			duration.HumanDuration(age))
	}
	return c
}

func checkServers(_ Facts, own ClusterFacts) *Check {
	c, uc := newCheck(clusterCategory, "API servers"), own.Object
	const advice = "`kubectl get usercluster` shows the condition Ready with what the controller waits for"
	all := uc.Status.APIServers
	c.saw("%d, as the controller saw each alone", len(all))
	if len(all) == 0 {
		return c.fail(advice, "the controller has seen no API server")
	}
	for _, s := range all {
		if !s.Ready {
			c.fail("see its log on its node", "API server %s is not ready", s.Name)
		}
		if n := len(s.ForeignKeyIDs); n > 0 {
			c.warn("name them in the annotation "+v1alpha1.AnnotationReleaseForeignKeys+" once nothing uses their tokens",
				"API server %s accepts keys that Keyturn did not make, for which a rotation waits at its end: %s", s.Name,
				strings.Join(s.ForeignKeyIDs, ", "))
		}
		c.keysOf(uc, s)
	}
	return c
}

// keysOf compares the keys of an API server with those that it has to have while no rotation runs.
func (c *Check) keysOf(uc *v1alpha1.UserCluster, s v1alpha1.APIServerStatus) {
	version := uc.Spec.KSASigningKey.Version
	if !settled(uc) || !s.Ready || s.SigningVersion == version && slices.Equal(s.AcceptedVersions, []int32{version}) {
		return
	}
	c.fail("the controller brings it up; its log says why it has not",
		"API server %s signs with version %d and accepts %v, not version %d alone", s.Name, s.SigningVersion,
		s.AcceptedVersions, version)
}

func checkPublications(_ Facts, own ClusterFacts) *Check {
	uc := own.Object
	wanted := len(uc.Spec.KSASigningKey.Publish)
	if uc.Spec.GKEConnect != nil {
		wanted++
	}
	all := uc.Status.Publications
	if wanted == 0 && len(all) == 0 {
		return nil
	}
	c := newCheck(clusterCategory, "fleet and publications").saw("%d", len(all))
	if len(all) < wanted {
		c.warn("the controller does it in its next round; its log says why it has not",
			"%d of %d destinations are known to the controller", len(all), wanted)
	}
	version := uc.Spec.KSASigningKey.Version
	for _, p := range all {
		switch {
		case p.WaitingFor != "":
			c.fail("check the destination, and the credentials for it", "%s waits for %s", p.Name, p.WaitingFor)
		case settled(uc) && !slices.Contains(p.AcceptedVersions, version):
			c.fail("the controller publishes it; its log says why it has not", "%s does not accept key version %d", p.Name,
				version)
		}
	}
	return c
}

func checkTokens(f Facts, own ClusterFacts) *Check {
	c, key := newCheck(clusterCategory, "tokens"), own.Object.Status.KSASigningKey
	c.saw("%d legacy tokens", key.LegacyTokens.Total)
	if n := key.LegacyTokens.Stale; n > 0 && settled(own.Object) {
		c.warn("the controller signs them again; its log says why it has not",
			"%d legacy tokens are not of the wanted key version", n)
	}
	if o := key.OldTokens; o != nil && o.Total > 0 {
		c.warn("restart these pods, or the containers that are named",
			"%d pods keep a token of an older key version", o.Total).about(holders(o))
	}
	if t := key.Tokens; t != nil && t.ObservedAt != nil {
		for _, what := range t.Unknown {
			c.warn("start what is missing: until then nobody knows which tokens live", "not known, %s ago: %s",
				f.since(t.ObservedAt.Time), what)
		}
	}
	return c
}

func holders(o *v1alpha1.OldTokenStatus) (names []string) {
	for _, p := range o.Pods {
		names = append(names, fmt.Sprintf("%s/%s (%s)", p.Namespace, p.Name, p.Holds))
	}
	return names
}

// checkLeftovers is about clusters that somebody else made.
func checkLeftovers(_ Facts, own ClusterFacts) *Check {
	k := own.Object.Status.Infrastructure.Adopted()
	if k == nil {
		return nil
	}
	c := newCheck(clusterCategory, "private keys left behind")
	for _, l := range k.Leftovers {
		c.warn("delete the file, or the key in it", "%s of node %s has private key %s", l.Path, l.Node, l.KeyID)
	}
	for _, name := range k.LeftoverSecrets {
		c.warn("replace the machine that started with it: the Secret goes with it",
			"Secret %s of the admin cluster may hold the private key that was retired last", name)
	}
	return c
}
