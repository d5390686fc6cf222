// Package adoption finds out whether Keyturn can rotate the keys of a cluster that kubeadm made, before it adopts it.
//
// Inspect is where to start. It finds the API servers, and asks each of them alone which key it signs with and which
// keys it accepts. It writes nothing to the cluster: API servers issue tokens of an account that every cluster has, for
// an audience that nobody has, which expire after ten minutes. Report then holds what was found, and what is wrong with
// it.
package adoption

import (
	"context"
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

// Report is what was found of a cluster.
type Report struct {
	// Endpoint is where its API servers were reached.
	Endpoint string `json:"endpoint"`
	// Issuer is that of all API servers, and SigningKeyID and Algorithm are of the key that all sign with; empty as long
	// as they do not agree.
	Issuer       string `json:"issuer"`
	SigningKeyID string `json:"signingKeyID"`
	Algorithm    string `json:"algorithm"`
	// Servers are the API servers, by node.
	Servers []Server `json:"apiServers"`
	// ForeignKeyIDs are the kids of other keys that some API server accepts.
	ForeignKeyIDs []string `json:"foreignKeyIDs"`
	// Problems are why the cluster cannot be adopted, and Warnings what to know of it. Each is a line that says what to
	// do.
	Problems []string `json:"problems"`
	Warnings []string `json:"warnings"`
}

// Server is one API server as it was found alone.
type Server struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Version string `json:"version"`
	// SigningKeyID is the kid of a token that it issued, and AcceptedKeyIDs are those of the keys that it serves.
	SigningKeyID   string   `json:"signingKeyID"`
	AcceptedKeyIDs []string `json:"acceptedKeyIDs"`
}

// Inspect finds out what there is to adopt. An error means that the cluster could not be seen at all.
func Inspect(ctx context.Context, config *rest.Config) (Report, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // One request after the other is slow enough.
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Report{}, fmt.Errorf("using the kubeconfig of the cluster: %w", err)
	}
	if err := mayDoAll(ctx, client); err != nil {
		return Report{}, err
	}
	found, err := kubeadm.Find(ctx, client)
	if err != nil {
		return Report{}, err
	}
	answers := askAll(ctx, config, found.Servers)
	r := conclude(found, answers)
	r.Endpoint = config.Host
	return r, nil
}

// errNoAdministrator is why a kubeconfig is of no use.
var errNoAdministrator = errors.New("its user is no administrator of the cluster: the agent is root on the " +
	"control-plane nodes, so a kubeconfig of cluster-admin is needed")

// mayDoAll refuses a user who is no administrator.
func mayDoAll(ctx context.Context, client kubernetes.Interface) error {
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "*", Group: "*", Resource: "*",
			}},
		}, metav1.CreateOptions{})
	if err == nil && !review.Status.Allowed {
		err = errNoAdministrator
	}
	if err != nil {
		return fmt.Errorf("asking the cluster what the kubeconfig allows: %w", err)
	}
	return nil
}
