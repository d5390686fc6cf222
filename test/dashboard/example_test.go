package dashboard_test

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// before is so long ago.
func before(d time.Duration) metav1.Time {
	return metav1.NewTime(time.Now().Add(-d).Truncate(time.Second))
}

func pointer(t metav1.Time) *metav1.Time { return &t }

const day = 24 * time.Hour

// settled is a cluster whose key was stored so long ago, and which nothing happens to.
func settled(name string, keyAge time.Duration) *v1alpha1.UserCluster {
	uc := newUserCluster(name, 3)
	uc.Status = v1alpha1.UserClusterStatus{
		Endpoint:   "https://" + name + ".example:6443",
		APIServers: apiServers(1, []int32{1}, []int32{1}, []int32{1}),
		KSASigningKey: v1alpha1.KSASigningKeyStatus{
			TokenVersion: 1, PrivateKeyVersion: 1, PublicKeyVersions: []int32{1},
			Keys: []v1alpha1.KeyVersionStatus{storedKey(1, keyAge)},
		},
		Conditions: conditions(true, keyAge, v1alpha1.ReasonReady, "The cluster matches its spec"),
	}
	return uc
}

func storedKey(version int32, age time.Duration) v1alpha1.KeyVersionStatus {
	kids := []string{"", "gVP6OLLFo2mqS0b4v1qcmMf8Hk2Oe5p0TtY7xkzq3Ws", "yE647sh_9uVJ8yq3nKf0cXb2Lr5dAa1mWzPq7TgHs4E"}
	return v1alpha1.KeyVersionStatus{Version: version, KeyID: kids[version], Algorithm: v1alpha1.RS256, CreatedAt: before(age)}
}

// apiServers are API servers that sign with a version, and each accept some.
func apiServers(signs int32, accepts ...[]int32) []v1alpha1.APIServerStatus {
	var all []v1alpha1.APIServerStatus
	for i, accepted := range accepts {
		all = append(all, v1alpha1.APIServerStatus{
			Name: fmt.Sprintf("apiserver-%d", i), Endpoint: fmt.Sprintf("https://10.0.0.%d:6443", 11+i), Ready: true,
			SigningVersion: signs, AcceptedVersions: accepted,
		})
	}
	return all
}

func conditions(ready bool, age time.Duration, reason, message string) []metav1.Condition {
	is := metav1.ConditionFalse
	rotated := v1alpha1.ReasonRotationProcessed
	if ready {
		is, rotated = metav1.ConditionTrue, v1alpha1.ReasonRotationCompleted
	}
	return []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: is, Reason: reason, Message: message, LastTransitionTime: before(age)},
		{
			Type: v1alpha1.ConditionKSASigningKeyRotation, Status: is, Reason: rotated, LastTransitionTime: before(age),
			Message: `{"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1]}`,
		},
	}
}

// step is a step that lasted from one time ago to another; the last one still runs.
func step(name string, from, to time.Duration, waits ...v1alpha1.RotationWait) v1alpha1.RotationStep {
	s := v1alpha1.RotationStep{Name: name, StartedAt: before(from), Waits: waits}
	if to > 0 {
		s.CompletedAt = pointer(before(to))
	}
	return s
}

func waited(what string, from, to time.Duration) v1alpha1.RotationWait {
	w := v1alpha1.RotationWait{For: what, StartedAt: before(from)}
	if to > 0 {
		w.CompletedAt = pointer(before(to))
	}
	return w
}

const (
	membership = "fleet membership projects/shop/locations/global/memberships/prod-eu"
	bucket     = "s3://shop-oidc/prod-eu"
)

// refreshing is a cluster in step Refresh of a rotation to version 2.
func refreshing(name string) *v1alpha1.UserCluster {
	uc := settled(name, 214*day)
	const nodes = "machine prod-eu-workers-7xk2p to join the cluster"
	uc.Spec.KSASigningKey.Version = 2
	k := &uc.Status.KSASigningKey
	k.PrivateKeyVersion, k.PublicKeyVersions = 2, []int32{1, 2}
	k.Keys = []v1alpha1.KeyVersionStatus{storedKey(1, 214*day), storedKey(2, 8*time.Minute)}
	k.Step, k.StepSince, k.StartedAt = "Refresh", pointer(before(5*time.Minute)), pointer(before(8*time.Minute))
	k.WaitingFor = nodes
	k.LegacyTokens = v1alpha1.LegacyTokenStatus{Total: 38}
	k.Rotations = []v1alpha1.RotationStatus{{
		Version: 2, StartedAt: *k.StartedAt, Steps: []v1alpha1.RotationStep{
			step("Generate", 8*time.Minute, 8*time.Minute-time.Second),
			step("Publish", 8*time.Minute-time.Second, 5*time.Minute+2*time.Second,
				waited("API server apiserver-2 to accept key versions [1 2] and sign with 1", 8*time.Minute-time.Second, 8*time.Minute-3*time.Second),
				waited(bucket+" to have had key version 2 for 2m0s, as long as verifiers may keep a document", 7*time.Minute+2*time.Second, 5*time.Minute+2*time.Second)),
			step("Switch", 5*time.Minute+2*time.Second, 5*time.Minute,
				waited("API server apiserver-0 to accept key versions [1 2] and sign with 2", 5*time.Minute+2*time.Second, 5*time.Minute+time.Second)),
			step("Refresh", 5*time.Minute, 0,
				waited("the legacy tokens: 0 of 1 pages are re-signed", 5*time.Minute, 5*time.Minute-2*time.Second),
				waited("pod shop/cart-0 on node prod-eu-workers-9m4ds to be evicted", 4*time.Minute, 90*time.Second),
				waited(nodes, 74*time.Second, 0)),
		},
	}}
	k.Tokens = &v1alpha1.TokensStatus{ObservedAt: pointer(before(40 * time.Second)), Workloads: workloads(), Old: []v1alpha1.TokenCount{{Kind: "Bound", Count: 14}}}
	uc.Status.APIServers = apiServers(2, []int32{1, 2}, []int32{1, 2}, []int32{1, 2})
	uc.Status.Publications = []v1alpha1.PublicationStatus{
		{Name: membership, AcceptedVersions: []int32{1, 2}, PublishedAt: pointer(before(7*time.Minute + 30*time.Second))},
		{Name: bucket, AcceptedVersions: []int32{1, 2}, PublishedAt: pointer(before(7 * time.Minute))},
	}
	uc.Status.NodePools = []v1alpha1.NodePoolStatus{{Name: "workers", Replicas: 7, Ready: 6, Updated: 3}}
	uc.Spec.Infrastructure.Local.NodePools = []v1alpha1.NodePool{{Name: "workers", Replicas: 6, MaxSurge: 1}}
	uc.Status.Conditions = conditions(false, 8*time.Minute, v1alpha1.ReasonRotating,
		"Rotating to key version 2, step Refresh: waiting for "+nodes)
	return uc
}

// workloads are tokens in use.
func workloads() []v1alpha1.WorkloadTokens {
	row := func(workload, account, audience, refresh string, kind v1alpha1.TokenKind, version int32, count int64, left time.Duration) v1alpha1.WorkloadTokens {
		r := v1alpha1.WorkloadTokens{
			Namespace: "shop", ServiceAccount: account, Workload: workload, Audience: audience, KeyVersion: version, Refresh: refresh,
			TokenCount: v1alpha1.TokenCount{Kind: kind, Count: count},
		}
		if left > 0 {
			r.ExpiresAt = pointer(before(-left))
		}
		return r
	}
	return []v1alpha1.WorkloadTokens{
		row("Deployment/web", "web", "", "Kubelet", "Bound", 2, 12, 52*time.Minute),
		row("StatefulSet/cart", "cart", "", "Pod", "Bound", 1, 3, 37*time.Minute),
		row("Deployment/ledger", "ledger", "vault", "Kubelet", "ThirdParty", 1, 2, 48*time.Minute),
		row("Secret/ci-deploy", "ci", "", "Secret", "Legacy", 2, 1, 0),
		row("", "backup", "", "Never", "Requested", 1, 1, 3*time.Hour),
	}
}

// blocked is a cluster whose rotation waits for a person.
func blocked(name string) *v1alpha1.UserCluster {
	uc := refreshing(name)
	const why = "pod shop/db-0 on node prod-us-workers-9m4ds to be evicted: PodDisruptionBudget shop/db allows no disruption"
	k := &uc.Status.KSASigningKey
	k.WaitingFor = why
	waits := k.Rotations[0].Steps[3].Waits
	waits[2].For, waits[2].Blocked = why, true
	uc.Status.Conditions = conditions(false, 8*time.Minute, v1alpha1.ReasonRotationBlocked, "Blocked: waiting for "+why)
	return uc
}

// rotated is a cluster that was rotated some time ago.
func rotated(name string) *v1alpha1.UserCluster {
	uc := settled(name, 30*day)
	k := &uc.Status.KSASigningKey
	start := 30 * day
	k.StartedAt, k.CompletedAt = pointer(before(start)), pointer(before(start-13*time.Second))
	k.Rotations = []v1alpha1.RotationStatus{{
		Version: 1, StartedAt: *k.StartedAt, CompletedAt: k.CompletedAt, Steps: []v1alpha1.RotationStep{
			step("Generate", start, start), step("Publish", start, start-time.Second), step("Switch", start-time.Second, start-time.Second),
			step("Refresh", start-time.Second, start-2*time.Second), step("Retire", start-2*time.Second, start-13*time.Second),
		},
	}}
	return uc
}

// pending is a cluster that is being created.
func pending(name string) *v1alpha1.UserCluster {
	uc := newUserCluster(name, 1)
	uc.Status.Conditions = conditions(false, time.Minute, v1alpha1.ReasonCreateOrUpdate,
		"Creating or updating user cluster control plane workloads: waiting for API server apiserver-0: starting")
	return uc
}
