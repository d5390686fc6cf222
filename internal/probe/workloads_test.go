package probe

import (
	"bytes"
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/token"
)

// A workload that copies its token uses the one that it started with, also when its Secret and its file hold another.
func TestWorkloadsThatCopyATokenKeepIt(t *testing.T) {
	for _, w := range []Workload{Once, Environment, Sidecar} {
		t.Run(string(w), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.Workload, b.options.LegacyToken = w, b.legacy()
			stop := b.start()
			b.until("uses", func(r Report) bool { return uses(r, Legacy, first).Accepted >= 3 })
			b.publishLegacy(next)
			b.mount(Legacy, b.legacy())
			// kube-apiserver accepts the old one for up to 10 s from its cache.
			b.until("refusals", func(r Report) bool { return uses(r, Legacy, first).Refused >= 3 })
			stop()
			r, _ := b.kept()
			other := uses(r, Legacy, next)
			if other != (Counts{}) || r.Workload != w || r.Mounted[Legacy] != first.id || len(r.Lines) != 1 {
				t.Errorf("report %+v", r)
			}
			s := Summarize([]Report{r})
			if last := s.Tokens[len(s.Tokens)-1]; last.Workload != w || last.Refused == 0 || s.Tokens[1].Requests != 0 {
				t.Errorf("summary %+v", s.Tokens)
			}
		})
	}
}

func TestAWorkloadWithoutATokenDoesNotStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Workload = Environment
	if err := run(b.ctx, b.options); err == nil || !strings.Contains(err.Error(), "without a legacy token") {
		t.Errorf("Run: %v", err)
	}
}

func TestACronJobUsesAllTokensAndEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Workload = CronJob
	ctx, cancel := context.WithTimeout(b.ctx, 4*cronJobLife)
	defer cancel()
	must(t, run(ctx, b.options))
	r, _ := b.kept()
	if ctx.Err() != nil || !r.Ended || !allAccepted(r) {
		t.Errorf("report %+v (%v)", r, ctx.Err())
	}
	for _, l := range r.Lines {
		if c := l.Counts(); c.Unavailable > 0 {
			t.Errorf("what its end cut off counts: %+v", l)
		}
	}
}

func TestReportsOfTwoContainersOfAPod(t *testing.T) {
	main := Report{Pod: "p", Workload: Once, StartedAt: epoch}
	sidecar := main
	sidecar.Workload = Sidecar
	if configMapName(main) == configMapName(sidecar) {
		t.Error("they are kept under one name")
	}
	if s := Summarize([]Report{main, sidecar}); s.Pods != 1 || len(s.InUse) != 2 {
		t.Errorf("summary %+v", s)
	}
}

// The API server takes the objects, and refuses fields that it does not know. Each pod gets its token in its own way.
func TestManifestsOfWorkloads(t *testing.T) {
	t.Parallel()
	d := DefaultDeployment()
	d.Workloads = Workloads()
	d.Servers = []string{"https://10.0.0.1:6443"}
	newBenchOf(t, d)
	var out bytes.Buffer
	must(t, Manifests(&out, d))
	for _, w := range Workloads() {
		pod := podOf(t, out.String(), w)
		c := pod.Containers[0]
		if w == Sidecar {
			c = pod.InitContainers[0]
			always := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if !always || pod.Containers[0].Name != string(Once) {
				t.Errorf("pod %+v", pod)
			}
		}
		var env, sub bool
		for _, v := range c.Env {
			env = env || v.ValueFrom.SecretKeyRef != nil
		}
		for _, m := range c.VolumeMounts {
			sub = sub || m.SubPath == "token"
		}
		if env != (w == Environment || w == Sidecar) || sub != (w == SubPath) {
			t.Errorf("%s has its token by environment: %t, by subPath: %t", w, env, sub)
		}
		if got := strings.Join(c.Args, " "); !strings.HasPrefix(got, "run --workload="+string(w)+" ") ||
			!strings.HasSuffix(got, "--api-servers=https://10.0.0.1:6443") {
			t.Errorf("%s runs %s", w, got)
		}
	}
}

// podOf finds the pod of a workload in manifests.
func podOf(t *testing.T, manifests string, w Workload) corev1.PodSpec {
	t.Helper()
	name := "keyturn-probe-" + string(w)
	if w == CronJob {
		return decode[batchv1.CronJob](t, manifests, "CronJob", name).Spec.JobTemplate.Spec.Template.Spec
	}
	return decode[appsv1.Deployment](t, manifests, "Deployment", name).Spec.Template.Spec
}

func TestReportsTellWhatTokensClaim(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	b.until("uses of all kinds", allAccepted)
	stop()
	r, _ := b.kept()
	subject := token.Subject(b.ns, "keyturn-probe")
	for _, kind := range apiServerKinds() {
		h := r.Held[kind]
		if h.KeyID != first.id || h.Subject != subject || h.Expires.IsZero() != (kind == Legacy) {
			t.Errorf("%s token: %+v", kind, h)
		}
	}
	if got := r.Held[ThirdParty].Audiences; len(got) != 1 || got[0] != "keyturn-probe" {
		t.Errorf("audiences of the third-party token: %v", got)
	}
}
