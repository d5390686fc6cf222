// Package adoption checks whether Keyturn can rotate the keys of a cluster that it did not create, before the cluster
// is adopted.
//
// Start with Inspect. It finds the API servers, and asks each of them directly which key it signs with and which keys
// it accepts. It creates no object in the cluster. API servers issue tokens of an account that every cluster has, for
// an audience that nobody uses; they expire after ten minutes. The Report contains what was found, and any problems.
package adoption

import (
	"context"
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

// Report describes a cluster that was inspected.
type Report struct {
	// Endpoint is the address at which its API servers were reached.
	Endpoint string `json:"endpoint"`
	// Issuer is the issuer of all API servers. SigningKeyID and Algorithm are of the key that all of them sign with.
	// Each is empty if they disagree.
	Issuer       string `json:"issuer"`
	SigningKeyID string `json:"signingKeyID"`
	Algorithm    string `json:"algorithm"`
	// Servers are the API servers, by node.
	Servers []Server `json:"apiServers"`
	// ForeignKeyIDs are the kids of other keys that some API server accepts.
	ForeignKeyIDs []string `json:"foreignKeyIDs"`
	// Problems are why the cluster cannot be adopted, and Warnings are what the user should know. Each is a line that
	// says what to do.
	Problems []string `json:"problems"`
	Warnings []string `json:"warnings"`

	// as is what the cluster is to be adopted as, and noSigner why API servers cannot have a signer.
	as       v1alpha1.Infrastructure
	noSigner []string
}

// Server is what was found of one API server, asked directly.
type Server struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Version string `json:"version"`
	// SigningKeyID is the kid of a token that it issued, and AcceptedKeyIDs are the kids of the keys that it serves.
	SigningKeyID   string   `json:"signingKeyID"`
	AcceptedKeyIDs []string `json:"acceptedKeyIDs"`
}

// Inspect inspects a cluster that is to be adopted. An error means that the cluster could not be reached at all.
func Inspect(ctx context.Context, config *rest.Config, as v1alpha1.Infrastructure) (Report, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // Requests are sequential, so they need no limit.
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
	r := conclude(as, found, answers)
	r.Endpoint = config.Host
	return r, nil
}

// NoSigner returns why API servers of a cluster that was adopted cannot have a signer, a sentence without its period
// each; empty if nothing is known to keep them from it.
func NoSigner(ctx context.Context, config *rest.Config) ([]string, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("using the kubeconfig of the cluster: %w", err)
	}
	found, err := kubeadm.Find(ctx, client)
	var lines []string
	for _, s := range found.Servers {
		if s.NoSigner != "" {
			add(&lines, "%s", s.NoSigner)
		}
	}
	return lines, err
}

// errNoAdministrator is returned for a kubeconfig without the necessary permissions.
var errNoAdministrator = errors.New("its user is not an administrator of the cluster: the agent is root on the " +
	"control-plane nodes, so a kubeconfig of cluster-admin is needed")

// mayDoAll returns an error if the user is not an administrator.
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
