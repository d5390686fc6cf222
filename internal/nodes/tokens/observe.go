package tokens

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// slow is the factor by which tokens are read less often if they take an hour, or a day, to be replaced.
const slow = 10

// Observed is the result of one observation of a cluster.
type Observed struct {
	Views []View
}

// Candidate is a machine that stays, and its Node object, which may be nil.
type Candidate struct {
	nodes.Machine
	Object *corev1.Node
	// Ready means that pods can run there, and Evicted that none of them is older than the new key.
	Ready, Evicted bool
}

// Observe reads what the pods hold on machines that stay.
func (e *Executor) Observe(ctx context.Context, machines []Candidate) (*Observed, error) {
	s := &Observed{}
	refreshing := map[string]bool{}
	for _, m := range machines {
		v := View{
			Machine: m.Machine, Registered: m.Object != nil, Ready: m.Ready, Heard: heard(m.Object, m.Refresh.Kubelet),
			Evicted: m.Evicted,
		}
		if err := e.observeTokens(ctx, &v); err != nil {
			return nil, err
		}
		refreshing[m.Name] = m.Refreshing()
		s.Views = append(s.Views, v)
	}
	e.Memory.keep(refreshing)
	return s, nil
}

// heard reports whether a kubelet that was started at this time has updated the Node object.
func heard(object *corev1.Node, started time.Time) bool {
	// Times in conditions are truncated to seconds.
	return object != nil && !started.IsZero() &&
		!nodes.ReadyCondition(object).LastHeartbeatTime.Time.Before(started.Truncate(time.Second))
}

// observeTokens reads the token files on a machine that is refreshing. A machine that cannot be read does not keep the
// others from being observed.
func (e *Executor) observeTokens(ctx context.Context, v *View) error {
	if !v.Refreshing() || !v.Running {
		return nil
	}
	if v.Refresh.KeyVersion != e.Keys.Next {
		v.Held.Trouble = fmt.Sprintf("they are to be of key version %d, which is not the newest", v.Refresh.KeyVersion)
		return nil
	}
	every := e.Every
	if e.Policy.How == v1alpha1.NodeRefreshWait {
		every *= slow
	}
	read := func() ([]podTokens, error) { return e.podTokens(ctx, v.Name) }
	pods, err := e.Memory.tokensOf(v.Name, v.Refresh, e.Now, every, read)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		v.Held.Trouble = unreadable.Error()
		return nil
	}
	if err != nil {
		return err
	}
	v.Held = judge(e.Policy.How, v.Refresh, e.Keys.KeyID, pods, e.Now)
	return nil
}

// unreadableError means that a machine could not be read.
type unreadableError struct{ error }

func (e unreadableError) Unwrap() error { return e.error }

// podTokens reads the tokens of all pods on a machine that have not ended. The pods are listed first: a pod that is
// created later gets a new token.
func (e *Executor) podTokens(ctx context.Context, machine string) ([]podTokens, error) {
	list, err := e.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: "spec.nodeName=" + machine + ",status.phase!=Succeeded,status.phase!=Failed",
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of node %s: %w", machine, err)
	}
	var files []nodes.TokenFile
	var pods []podTokens
	for i := range list.Items {
		pods = append(pods, podTokens{pod: &list.Items[i]})
		for _, m := range tokenMounts(&list.Items[i]) {
			files = append(files, m.TokenFile)
		}
	}
	tokens, err := e.Refresher.Tokens(ctx, machine, files)
	if err == nil && len(tokens) != len(files) {
		err = fmt.Errorf("%d files read, of %d", len(tokens), len(files))
	}
	if err != nil {
		return nil, unreadableError{err}
	}
	for i := range pods {
		n := len(tokenMounts(pods[i].pod))
		pods[i].tokens, tokens = tokens[:n:n], tokens[n:]
	}
	return pods, nil
}
