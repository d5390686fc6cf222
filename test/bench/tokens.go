package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/evict"
	"github.com/keyturn/keyturn/internal/rotation"
)

const (
	inUseCluster = "inuse"
	// podsOfNode is how many pods are bound to a node.
	podsOfNode = 100
	// blockedFor is how long a rotation waits for pods of which it lists all, before they are deleted.
	blockedFor = 20 * time.Second
)

// InUse is what it costs to tell which tokens live: times in seconds, one for each round.
type InUse struct {
	Pods int `json:"pods"`
	// Preview is gkectl rotate --dry-run, Described gkectl describe clusters --tokens, and List the list of all pods that
	// ends the step Refresh.
	Preview   []float64 `json:"previewSeconds"`
	Described []float64 `json:"describedSeconds"`
	List      []float64 `json:"listSeconds"`
	// Memory is the peak of the controller's memory while it reported the tokens and rotated, in MiB, and MemoryBefore
	// what it had in use before.
	Memory       float64 `json:"memoryMiB"`
	MemoryBefore float64 `json:"memoryBeforeMiB"`
	// Stale is how long mounted legacy tokens were stale in rotations, in seconds, by pod.
	Stale map[v1alpha1.KeySource][]float64 `json:"staleSeconds"`
}

// measureInUse measures the ledger, then what a cluster with many pods and Secrets costs, and how long mounted tokens
// are stale.
func measureInUse(ctx context.Context, p *place, r *Results) (err error) {
	if r.Ledger, err = p.measureLedger(ctx); err != nil {
		return err
	}
	if r.InUse, err = p.measurePods(ctx); err != nil {
		return err
	}
	r.InUse.Stale = map[v1alpha1.KeySource][]float64{}
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceExternal, v1alpha1.KeySourceFiles} {
		if r.InUse.Stale[source], err = p.measureStale(ctx, source); err != nil {
			return err
		}
	}
	return nil
}

// measurePods has a cluster with many pods, which are objects without kubelets, and many legacy tokens.
func (p *place) measurePods(ctx context.Context) (*InUse, error) {
	cluster := ofFiles(inUseCluster, 1, 0)
	cluster.source = v1alpha1.KeySourceExternal
	if err := p.createCluster(ctx, cluster); err != nil {
		return nil, err
	}
	client, err := p.user(inUseCluster)
	if err != nil {
		return nil, err
	}
	key, err := p.key(ctx, inUseCluster)
	if err != nil {
		return nil, err
	}
	p.say("creating %d legacy tokens and %d pods", p.secrets, p.pods)
	s := &secretsOf{client: client, count: p.secrets}
	if err := errors.Join(s.fill(ctx, key), s.fillPods(ctx, p.pods)); err != nil {
		return nil, err
	}
	c, err := p.controller()
	if err != nil {
		return nil, err
	}
	u := &InUse{Pods: p.pods}
	if _, err := c.resetPeak(); err != nil {
		return nil, err
	}
	if u.MemoryBefore, err = c.megabytes("VmRSS"); err != nil {
		return nil, err
	}
	for i := range p.rounds {
		p.say("preview, tokens in use and list, round %d of %d", i+1, p.rounds)
		if err := p.timeAll(ctx, client, i, u); err != nil {
			return nil, err
		}
	}
	if err := p.rotatePods(ctx, client); err != nil {
		return nil, err
	}
	if u.Memory, err = c.megabytes("VmHWM"); err != nil {
		return nil, fmt.Errorf("reading the memory of the controller that was there before the rotation: %w", err)
	}
	return u, p.deleteCluster(ctx, inUseCluster)
}

// fillPods creates pods of which each holds a token for the API server, one for another audience, and a legacy token.
// They are bound to Node objects that nobody cares for.
func (s *secretsOf) fillPods(ctx context.Context, count int) error {
	err := parallel(ctx, (count+podsOfNode-1)/podsOfNode, func(ctx context.Context, i int) error {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("nobodys-%d", i)}}
		_, err := s.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return parallel(ctx, count, func(ctx context.Context, i int) error {
		n := i % namespaces
		pod := tokenPod(i, fmt.Sprintf("token-%05d", i/namespaces%max(1, s.share(n))))
		_, err := s.client.CoreV1().Pods(fmt.Sprintf("bench-%d", n)).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
}

// tokenPod is the i-th pod, which tolerates that its node is not ready.
func tokenPod(i int, secret string) *corev1.Pod {
	projected := func(name, audience string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Path: "token", Audience: audience, ExpirationSeconds: new(int64(3600)),
			}}},
		}}}
	}
	legacy := corev1.Volume{Name: "legacy", VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: secret},
	}}
	var mounts []corev1.VolumeMount
	for _, name := range []string{"bound", "third-party", "legacy"} {
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: "/tokens/" + name})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName(i)},
		Spec: corev1.PodSpec{
			NodeName:           fmt.Sprintf("nobodys-%d", i/podsOfNode),
			ServiceAccountName: robot, AutomountServiceAccountToken: new(false),
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: "main", Image: "none", VolumeMounts: mounts}},
			Volumes:     []corev1.Volume{projected("bound", ""), projected("third-party", "vault"), legacy},
		},
	}
}

// timeAll times each way to tell which tokens live, once.
func (p *place) timeAll(ctx context.Context, client kubernetes.Interface, round int, u *InUse) error {
	timed := func(all *[]float64, do func() error) error {
		began := time.Now()
		err := do()
		*all = append(*all, time.Since(began).Seconds())
		return err
	}
	return inTurn(round,
		func() error {
			return timed(&u.Preview, func() error {
				_, err := p.run(ctx, "gkectl", "update", "credentials", "ksa-signing-key", "rotate", "--dry-run", "-o", "json",
					"--config", p.config(inUseCluster), "--kubeconfig", p.kubeconfig())
				return err
			})
		},
		func() error {
			return timed(&u.Described, func() error {
				_, err := p.run(ctx, "gkectl", "describe", "clusters", inUseCluster, "--tokens", "-o", "json",
					"--kubeconfig", p.kubeconfig())
				return err
			})
		},
		func() error { return timeList(ctx, client, &u.List) },
	)
}

// timeList times the list of all pods by which the controller ends Refresh where nodes stay, with what it reads for it.
func timeList(ctx context.Context, client kubernetes.Interface, times *[]float64) error {
	now := time.Now()
	e := &evict.Executor{
		How: v1alpha1.NodeRefreshInPlace, Client: client, Memory: &evict.Memory{}, Now: now,
		Keys: nodes.Keys{Next: 2, KeyID: "of-the-benchmark", Old: 1, ProvenAt: now},
	}
	if err := e.Note(ctx); err != nil {
		return err
	}
	began := time.Now()
	seen, err := e.Observe(ctx, nil, true)
	if err != nil {
		return err
	}
	*times = append(*times, time.Since(began).Seconds())
	if _, known := seen.Holders(); !known {
		return errors.New("the pods were not listed")
	}
	return nil
}

// rotatePods rotates the cluster. Once the rotation waits for the pods, and has listed them for a while, they are
// deleted.
func (p *place) rotatePods(ctx context.Context, client kubernetes.Interface) error {
	rotated := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, err := p.rotate(ctx, inUseCluster)
		rotated <- err
	}()
	err := poll(ctx, rotateTimeout, func(ctx context.Context) (bool, error) {
		uc, err := p.cluster(ctx, inUseCluster)
		if err != nil {
			return false, err
		}
		k := uc.Status.KSASigningKey
		return k.Step == string(rotation.StepRefresh) && strings.Contains(k.WaitingFor, "pod "), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the rotation to wait for pods: %w", err)
	}
	p.say("the rotation waits for the pods; deleting them in %s", blockedFor)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(blockedFor):
	}
	if err := deletePods(ctx, client); err != nil {
		return err
	}
	return <-rotated
}

func deletePods(ctx context.Context, client kubernetes.Interface) error {
	for n := range namespaces {
		err := client.CoreV1().Pods(fmt.Sprintf("bench-%d", n)).DeleteCollection(ctx,
			metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("deleting the pods: %w", err)
		}
	}
	return nil
}

// measureStale rotates a cluster with nodes, and returns how long the mounted legacy token was stale in each pod that
// lived through it.
func (p *place) measureStale(ctx context.Context, source v1alpha1.KeySource) (seconds []float64, err error) {
	cluster := ofFiles("stale-"+string(source), apiServers, nodeCount)
	cluster.source = source
	if err := p.createCluster(ctx, cluster); err != nil {
		return nil, err
	}
	if err := p.startProbe(ctx, cluster.name, nodeCount); err != nil {
		return nil, err
	}
	for range p.rotations {
		_, seen, err := p.rotateWithProbe(ctx, cluster.name)
		if err != nil {
			return nil, err
		}
		seconds = append(seconds, seen...)
	}
	if len(seconds) == 0 {
		return nil, errors.New("no pod saw its mounted legacy token change in a rotation")
	}
	return seconds, p.deleteCluster(ctx, cluster.name)
}

func (r *Results) inUseRows() (rows []Row) {
	cpu := func(r Rate) float64 { return r.PerCPUSecond }
	for _, n := range r.Ledger.Signed {
		rows = append(rows, Row{
			What:  fmt.Sprintf("Sign with a ledger, %s, ratio to without by processor time, the median of rounds", n.Algorithm),
			Value: median(ratios(each(n.With, cpu), each(n.Without, cpu))), AtLeast: 0.97,
		})
	}
	if r.Ledger.Memory > 0 {
		rows = append(rows, Row{
			What:  fmt.Sprintf("memory of a signer's ledger with %d pods of two audiences", ledgerPods),
			Value: r.Ledger.Memory, Unit: "MiB", AtMost: 8,
		})
	}
	u := r.InUse
	if u == nil {
		return rows
	}
	rows = append(rows,
		Row{
			What:  fmt.Sprintf("preview of a rotation, %d pods without kubelets and %d legacy tokens", u.Pods, r.Load.Secrets),
			Value: median(u.Preview), Unit: "s",
		},
		Row{What: "- tokens in use, by gkectl describe clusters --tokens", Value: median(u.Described), Unit: "s"},
		Row{What: "- list of all pods at the end of Refresh", Value: median(u.List), Unit: "s"},
		Row{What: "- controller memory, peak while it listed them and rotated", Value: u.Memory, Unit: "MiB"},
		Row{What: "- before", Value: u.MemoryBefore, Unit: "MiB"},
	)
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceExternal, v1alpha1.KeySourceFiles} {
		if stale := u.Stale[source]; len(stale) > 0 {
			rows = append(rows,
				Row{
					What:  fmt.Sprintf("mounted legacy token stale in a rotation, keys %s, at most", source),
					Value: slices.Max(stale), Unit: "s",
				},
				Row{What: fmt.Sprintf("- the median of %d pods", len(stale)), Value: median(stale), Unit: "s"})
		}
	}
	return rows
}
