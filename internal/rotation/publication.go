package rotation

import (
	"fmt"
	"slices"
)

// published makes exactly these key versions the ones that verifiers outside the cluster accept. done means that each
// destination has proven it.
func (r run) published(step Step, versions ...int) (d Decision, done bool) {
	for _, p := range r.Publications {
		if p.whyNot(versions, r.Stored) != "" {
			return r.publishKeys(step, versions...), false
		}
	}
	return Decision{}, true
}

// spread is published, but is done only when no verifier can still use what was published before.
func (r run) spread(step Step, versions ...int) (d Decision, done bool) {
	if d, done := r.published(step, versions...); !done {
		return d, false
	}
	for _, p := range r.Publications {
		if p.CertainAt.After(r.now) {
			return waitingUntil(p.CertainAt, step,
				fmt.Sprintf("every verifier of %s to accept key versions %v and no other", p.Name, versions)), false
		}
	}
	return Decision{}, true
}

func (r run) publishKeys(step Step, versions ...int) Decision {
	d := Decision{Step: step, Action: Action{Kind: PublishKeys, Publish: versions}}
	for _, p := range r.Publications {
		if d.Waiting = p.whyNot(versions, r.Stored); d.Waiting != "" {
			break
		}
	}
	return d
}

// lost reports whether some destination was seen to refuse one of these key versions.
func (r run) lost(versions ...int) bool {
	return slices.ContainsFunc(r.Publications, func(p Publication) bool {
		return slices.ContainsFunc(versions, func(v int) bool {
			return slices.Contains(p.Refuses, v) && !slices.Contains(p.Accepts, v)
		})
	})
}

// whyNot returns why not exactly these of the stored key versions are accepted; empty if they are.
func (p Publication) whyNot(versions, stored []int) string {
	if p.Waiting != "" {
		return fmt.Sprintf("%s: %s", p.Name, p.Waiting)
	}
	for _, v := range stored {
		switch wanted := slices.Contains(versions, v); {
		case wanted && !slices.Contains(p.Accepts, v):
			return fmt.Sprintf("%s to accept a canary token of key version %d", p.Name, v)
		case !wanted && !slices.Contains(p.Refuses, v):
			return fmt.Sprintf("%s to refuse a canary token of key version %d", p.Name, v)
		}
	}
	return ""
}
