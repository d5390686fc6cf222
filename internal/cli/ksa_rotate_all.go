package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	kubelabels "k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/hint"
)

// manyClusters are the flags with which `rotate` rotates the keys of several clusters.
type manyClusters struct {
	all, allNamespaces bool
	// namespaces name where the clusters are; none means that of the admin.
	namespaces []string
	selector   string
	olderThan  model.Duration
	parallel   int
}

func manyClustersFlags(cmd *cobra.Command, m *manyClusters) {
	cmd.Flags().BoolVar(&m.all, "all", false, "rotate the keys of all user clusters of the namespace, and wait for each")
	cmd.Flags().BoolVarP(&m.allNamespaces, "all-namespaces", "A", false, "with --all: clusters of all namespaces")
	cmd.Flags().StringVarP(&m.selector, "selector", "l", "",
		"with --all: only clusters with these `labels`, such as stage=test")
	cmd.Flags().Var(&m.olderThan, "older-than", "with --all: only keys of at least this age, such as 90d")
	cmd.Flags().IntVar(&m.parallel, "parallel", 1, "with --all: how many `clusters` to rotate at once")
	cmd.Flag("timeout").Usage = "how long to wait, with --all for each cluster; 0 means no limit"
}

// check refuses flags that exclude each other.
func (m manyClusters) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	if !m.all {
		for _, name := range []string{"all-namespaces", "selector", "older-than", "parallel"} {
			if changed(name) {
				return usage("add --all", "--%s requires --all", name)
			}
		}
		if len(m.namespaces) > 1 {
			return usage("name only one, or add --all", "several namespaces require --all")
		}
		return nil
	}
	switch {
	case changed("config"):
		return usage("use only one of them", "--config names one cluster, and --all means all clusters")
	case changed("wait"):
		return usage("omit --wait", "--all always waits: the next rotation starts when one has ended")
	case m.parallel < 1:
		return usage("for example --parallel 1", "--parallel %d lets no rotation start", m.parallel)
	}
	if _, err := kubelabels.Parse(m.selector); err != nil {
		return usage("for example --selector stage=test", "reading --selector: %w", err)
	}
	return nil
}

// in returns the namespaces of the user clusters that the flags select; an empty one means all.
func (m manyClusters) in(c admin) []string {
	switch {
	case m.allNamespaces:
		return []string{""}
	case len(m.namespaces) > 0:
		return slices.Compact(slices.Sorted(slices.Values(m.namespaces)))
	}
	return []string{c.namespace}
}

// several reports whether the flags select clusters of more than one namespace.
func (m manyClusters) several() bool { return m.allNamespaces || len(m.namespaces) > 1 }

// list returns the user clusters that the flags select.
func (m manyClusters) list(ctx context.Context, c admin) (clusters []v1alpha1.UserCluster, err error) {
	selector, err := kubelabels.Parse(m.selector)
	if err != nil {
		return nil, err
	}
	for _, namespace := range m.in(c) {
		list, err := c.in(namespace).list(ctx, client.MatchingLabelsSelector{Selector: selector})
		if err != nil {
			return nil, err
		}
		clusters = append(clusters, list.Items...)
	}
	return clusters, nil
}

// rotateAll rotates the keys of many clusters, the oldest first, a few at a time. It waits for each rotation, and
// starts no further one after a rotation fails or is blocked.
func (a *app) rotateAll(ctx context.Context, c admin, how rotateFlags) error {
	m := how.many
	clusters, err := m.list(ctx, c)
	if err != nil {
		return err
	}
	plan := planRotations(clusters, time.Duration(m.olderThan), a.Now())
	if how.dryRun {
		return how.output.write(a.Out, plan, func(w io.Writer) error { return a.writePlan(w, plan, m.several()) })
	}
	due := slices.DeleteFunc(slices.Clone(plan), func(p plannedRotation) bool { return p.Action == actionNone })
	if len(due) == 0 {
		a.note("No KSA signing key needs to be rotated.")
		return nil
	}
	if err := a.writePlan(a.Err, plan, m.several()); err != nil {
		return err
	}
	question := "Key rotations cannot be paused or rolled back. Do you want to continue?"
	if err := a.confirm(ctx, how.skipPrompt, question); err != nil {
		return err
	}
	r := &rotations{
		app: a, admin: c, timeout: how.waiting.timeout, several: m.several(), queue: due, planned: len(due),
	}
	return r.run(ctx, m.parallel)
}

// writePlan shows what happens to which cluster, with namespaces if there are several.
func (a *app) writePlan(w io.Writer, plan []plannedRotation, namespaces bool) error {
	rows := [][]string{{"NAMESPACE", "CLUSTER", "KEY", "AGE", "ROTATION"}}
	for _, p := range plan {
		age := "-"
		if p.CreatedAt != nil {
			age = a.age(p.CreatedAt.Time)
		}
		rows = append(rows, []string{p.Namespace, p.Cluster, fmt.Sprint(p.KSASigningKeyVersion), age, p.words()})
	}
	if !namespaces {
		rows = withoutFirst(rows)
	}
	return table(w, "", rows...)
}

// rotations runs several rotations, a few at a time.
type rotations struct {
	*app
	admin   admin
	timeout time.Duration
	// several means that clusters are of several namespaces, and so named with theirs.
	several bool
	planned int

	// mu guards the fields below, and the writers of app.
	mu      sync.Mutex
	queue   []plannedRotation
	stopped bool
	failed  []*exitError
}

func (r *rotations) run(ctx context.Context, parallel int) error {
	// The first ones begin together, even if one of them is found to be blocked before another has begun.
	n := min(parallel, len(r.queue))
	first := r.queue[:n]
	r.queue = r.queue[n:]
	var work sync.WaitGroup
	for _, p := range first {
		work.Go(func() {
			for ok := true; ok; p, ok = r.next() {
				r.end(ctx, p, r.rotate(ctx, p))
			}
		})
	}
	work.Wait()
	return cmp.Or(ctx.Err(), r.result())
}

// next returns the next cluster to rotate, unless no further rotation may start.
func (r *rotations) next() (p plannedRotation, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || len(r.queue) == 0 {
		return p, false
	}
	p, r.queue = r.queue[0], r.queue[1:]
	return p, true
}

// name returns what a cluster is called in what is printed.
func (r *rotations) name(p plannedRotation) string {
	if r.several {
		return p.Namespace + "/" + p.Cluster
	}
	return p.Cluster
}

// end records how a rotation ended. A rotation that the API server refuses to start has changed nothing, and does not
// stop the others.
func (r *rotations) end(ctx context.Context, p plannedRotation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		fmt.Fprintf(r.Out, "user cluster %s: the KSA signing key has KSASigningKeyVersion %d\n", r.name(p), p.target())
		return
	}
	e := r.explain(ctx, err)
	r.stopped = r.stopped || e.code != ExitRefused
	r.failed = append(r.failed, &exitError{code: e.code, err: fmt.Errorf("%s: %w", r.name(p), e.err)})
}

// rotate starts a rotation, unless it is running, and follows it until it ends or is blocked.
func (r *rotations) rotate(ctx context.Context, p plannedRotation) error {
	in := r.admin.in(p.Namespace)
	if p.Action == actionRotate {
		if _, err := in.raise(ctx, p.read); err != nil {
			return err
		}
	}
	one := *r.app
	one.Err = linesOf{r, r.name(p)}
	blockedBy := ""
	rotated := untilRotated(p.target())
	err := one.follow(ctx, in, p.Cluster, waiting{wait: true, timeout: r.timeout},
		func(uc *v1alpha1.UserCluster) (step, detail string, done bool) {
			step, detail, done = rotated(uc)
			if uc == nil || done || !blocked(uc) {
				return step, detail, done
			}
			blockedBy = cmp.Or(detail, readyOf(uc).Message)
			return step, detail, true
		})
	if err == nil && blockedBy != "" {
		return &exitError{
			code: ExitBlocked, err: fmt.Errorf("the rotation to key version %d is blocked: %s", p.target(), blockedBy),
		}
	}
	return err
}

// result returns one error for all rotations that did not succeed, with the exit code of the first.
func (r *rotations) result() error {
	if len(r.failed) == 0 {
		return nil
	}
	code := ExitRefused
	var lines []string
	for _, e := range r.failed {
		if code == ExitRefused {
			code = e.code
		}
		lines = append(lines, e.Error())
	}
	if len(r.queue) > 0 {
		lines = append(lines, fmt.Sprintf("%s not begun", count(len(r.queue), "other rotation")))
	}
	const advice = "fix this and run the command again: it begins with the rotations that are running"
	return &exitError{code: code, err: hint.Errorf(advice, "%d of %d rotations have not ended:\n  %s",
		len(r.failed)+len(r.queue), r.planned, strings.Join(lines, "\n  "))}
}

// linesOf prefixes lines with the name of a cluster, since they are mixed with those of others.
type linesOf struct {
	r       *rotations
	cluster string
}

// Write takes whole lines.
func (l linesOf) Write(lines []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	_, err := fmt.Fprintf(l.r.Err, "%s %s", l.cluster, lines)
	return len(lines), err
}
