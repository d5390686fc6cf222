package preflight

import (
	"context"
	"strings"

	"github.com/keyturn/keyturn/internal/webhooks"
)

// webhooks finds webhooks that requests of the rotation go through and that can never answer.
func (i *inspection) webhooks(ctx context.Context) error {
	requests := append(append([]webhooks.Request{}, webhooks.Proof...), webhooks.Legacy...)
	if !i.keeps {
		requests = append(requests, webhooks.Nodes...)
	}
	all, err := webhooks.List(ctx, i.client)
	if err != nil {
		return err
	}
	for _, h := range webhooks.Catching(all, requests...) {
		why, err := webhooks.Unserved(ctx, i.client, h)
		if err != nil {
			return err
		}
		if why == "" {
			continue
		}
		kind := DeadWebhook
		if h.Ignored {
			kind = UnansweredWebhook
		}
		object, name, _ := strings.Cut(h.Configuration, " ")
		i.find(kind, Object{Kind: object, Name: name}, "webhook "+h.Name+": "+why)
	}
	return nil
}
