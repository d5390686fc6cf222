package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/legacytoken"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/token"
)

const (
	probeName   = "keyturn-probe" // of its namespace, Deployment and ServiceAccount
	probeSecret = "keyturn-probe-legacy"
	// probeRate is so low that the pods do not slow down what is measured. With three API servers a pod reads its mounted
	// token every sixth of a second to every half second.
	probeRate = "2"
	// settledUses is after how many uses of its legacy token a pod certainly follows the Secret as well.
	settledUses = 30
	// staleLimit is how long a mounted token may stay as it is before we give up.
	staleLimit = 120 * time.Second
)

// startProbe starts pods that use tokens and read mounted ones, one for each node.
func (p *place) startProbe(ctx context.Context, name string, replicas int) error {
	p.say("starting %d pods that use tokens", replicas)
	uc, err := p.cluster(ctx, name)
	if err != nil {
		return err
	}
	var servers []string
	for _, s := range uc.Status.APIServers {
		servers = append(servers, s.Endpoint)
	}
	manifests, err := p.run(ctx, "keyturn-probe", "manifests", "--replicas", fmt.Sprint(replicas),
		"--rate", probeRate, "--api-servers", strings.Join(servers, ","))
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, "probe.yaml")
	if err := os.WriteFile(path, manifests, 0o600); err != nil {
		return err
	}
	if err := p.kubectl(ctx, name, "apply", "-f", path); err != nil {
		return err
	}
	return p.awaitProbe(ctx, name)
}

// restartProbe replaces all pods by new ones, which have not seen their mounted token change.
func (p *place) restartProbe(ctx context.Context, name string) error {
	if err := p.kubectl(ctx, name, "-n", probeName, "rollout", "restart", "deployment/"+probeName); err != nil {
		return err
	}
	return p.awaitProbe(ctx, name)
}

// awaitProbe waits until all pods run, and have read their mounted tokens for some time.
func (p *place) awaitProbe(ctx context.Context, name string) error {
	if err := p.kubectl(ctx, name, "-n", probeName, "rollout", "status", "deployment/"+probeName, "--timeout", "3m"); err != nil {
		return err
	}
	client, err := p.user(name)
	if err != nil {
		return err
	}
	err = poll(ctx, createTimeout, func(ctx context.Context) (bool, error) {
		reports, err := liveReports(ctx, client)
		if err != nil || len(reports) == 0 {
			return false, err
		}
		for _, r := range reports {
			if legacyUses(r) < settledUses {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the probe's reports: %w", err)
	}
	return nil
}

// liveReports returns the reports of the pods that are there, an empty one for a pod that has yet to write its own.
func liveReports(ctx context.Context, client kubernetes.Interface) ([]probe.Report, error) {
	pods, err := client.CoreV1().Pods(probeName).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	all, err := probe.Collect(ctx, client.CoreV1().ConfigMaps(probeName))
	if err != nil {
		return nil, err
	}
	byPod := map[string]probe.Report{}
	for _, r := range all {
		byPod[r.Pod] = r
	}
	var live []probe.Report
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			live = append(live, byPod[pod.Name])
		}
	}
	return live, nil
}

func legacyUses(r probe.Report) (uses int64) {
	for _, l := range r.Lines {
		if l.Kind == probe.Legacy {
			c := l.Counts()
			uses += c.Requests()
		}
	}
	return uses
}

// lags returns how long the mounted token was behind its Secret, in seconds, in each pod that ever saw one change. A
// rotation replaces nodes and so pods, and signs a Secret once: no pod sees two changes.
func lags(ctx context.Context, client kubernetes.Interface) (map[string]float64, error) {
	reports, err := probe.Collect(ctx, client.CoreV1().ConfigMaps(probeName))
	if err != nil {
		return nil, err
	}
	seen := map[string]float64{}
	for _, r := range reports {
		if r.FileLag.Changes > 0 {
			seen[r.Pod] = r.FileLag.MaxSeconds
		}
	}
	return seen, nil
}

// staleAlone puts another good token into the probe's Secret and tells no pod of it. It returns how long each kubelet
// took on its own to project it, in seconds; a pod still without it after staleLimit counts with that.
func (p *place) staleAlone(ctx context.Context, name string) ([]float64, error) {
	p.say("updating a mounted legacy token without telling its pods")
	if err := p.restartProbe(ctx, name); err != nil {
		return nil, err
	}
	client, err := p.user(name)
	if err != nil {
		return nil, err
	}
	before, err := liveReports(ctx, client)
	if err != nil {
		return nil, err
	}
	key, err := p.key(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := renew(ctx, client, key); err != nil {
		return nil, err
	}
	var seen []float64
	err = poll(ctx, staleLimit, func(ctx context.Context) (bool, error) {
		all, err := lags(ctx, client)
		if err != nil {
			return false, err
		}
		seen = nil
		for _, r := range before {
			if lag, ok := all[r.Pod]; ok {
				seen = append(seen, lag)
			}
		}
		return len(seen) == len(before), nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	for range len(before) - len(seen) {
		seen = append(seen, staleLimit.Seconds())
	}
	return seen, ctx.Err()
}

// renew signs the token of the probe's Secret again. ECDSA signatures are random, so it becomes another one.
func renew(ctx context.Context, client kubernetes.Interface, key keystore.KeyPair) error {
	target, err := legacytoken.NewTarget(key)
	if err != nil {
		return err
	}
	secret, err := client.CoreV1().Secrets(probeName).Get(ctx, probeSecret, metav1.GetOptions{})
	if err != nil {
		return err
	}
	signed, err := target.Signer.Sign(rand.Reader, token.NewLegacyClaims(token.Legacy{
		Namespace: probeName, SecretName: probeSecret, ServiceAccountName: probeName,
		ServiceAccountUID: secret.Annotations[corev1.ServiceAccountUIDKey],
	}))
	if err != nil {
		return err
	}
	secret.Data[corev1.ServiceAccountTokenKey] = []byte(signed)
	_, err = client.CoreV1().Secrets(probeName).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}
