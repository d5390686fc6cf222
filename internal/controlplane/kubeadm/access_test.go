package kubeadm

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
)

// TestOwnCluster opens the cluster of the controller for the one UserCluster that a flag names.
func TestOwnCluster(t *testing.T) {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keys", Name: "prod"}}
	uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{}
	for _, test := range []struct {
		own  types.NamespacedName
		want string
	}{
		{types.NamespacedName{}, "started without --own-cluster=keys/prod"},
		{types.NamespacedName{Namespace: "keys", Name: "other"}, "names UserCluster keys/other"},
		{types.NamespacedName{Namespace: "others", Name: "prod"}, "names UserCluster others/prod"},
		{types.NamespacedName{Namespace: "keys", Name: "prod"}, ""},
	} {
		cfg, err := Access{Own: &rest.Config{Host: "https://own"}, OwnCluster: test.own}.Config(t.Context(), uc)
		if test.want == "" {
			if err != nil || cfg.Host != "https://own" {
				t.Errorf("%v: %v, %v", test.own, cfg, err)
			}
			continue
		}
		_, blocked := errors.AsType[*controlplane.BlockedError](err)
		if !blocked || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want an error with %q that blocks", test.own, err, test.want)
		}
	}
}

// TestKubeconfigOfServiceAccount refuses a token, which would die with the key, and tells why without the token.
func TestKubeconfigOfServiceAccount(t *testing.T) {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keys", Name: "prod"}}
	uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "access"}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "keys", Name: "access", Labels: map[string]string{v1alpha1.LabelCluster: "prod"},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{
			"value": []byte(`{apiVersion: v1, kind: Config, users: [{name: a, user: {token: s3cret}}]}`),
		},
	}
	_, err := Access{Secrets: fake.NewClientBuilder().WithObjects(secret).Build()}.Config(t.Context(), uc)
	_, blocked := errors.AsType[*controlplane.BlockedError](err)
	if !blocked || !strings.Contains(err.Error(), `field "users[0].user.token"`) ||
		!strings.Contains(err.Error(), "dies with the key") ||
		!strings.Contains(err.Error(), "keys/access") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
	_, err = Access{Secrets: fake.NewClientBuilder().Build()}.Config(t.Context(), uc)
	if _, blocked := errors.AsType[*controlplane.BlockedError](err); !blocked ||
		!strings.Contains(err.Error(), "there is no Secret") {
		t.Errorf("%v", err)
	}
}

// TestKubeconfigOfAnotherCluster refuses a kubeconfig that is not marked as the cluster's: the author of a UserCluster
// may not be allowed to read it.
func TestKubeconfigOfAnotherCluster(t *testing.T) {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keys", Name: "prod", UID: "1"}}
	uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "access"}
	mark := map[string]string{v1alpha1.LabelCluster: "prod"}
	owner := []metav1.OwnerReference{{Kind: "UserCluster", Name: "prod", UID: "2"}}
	for name, secret := range map[string]*corev1.Secret{
		"no label": {Type: corev1.SecretTypeOpaque},
		"label of another cluster": {
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelCluster: "other"}}, Type: corev1.SecretTypeOpaque,
		},
		"a Secret of Cluster API": {ObjectMeta: metav1.ObjectMeta{Labels: mark}, Type: "cluster.x-k8s.io/secret"},
		"another owner":           {ObjectMeta: metav1.ObjectMeta{Labels: mark, OwnerReferences: owner}, Type: corev1.SecretTypeOpaque},
	} {
		secret.Namespace, secret.Name = "keys", "access"
		secret.Data = map[string][]byte{v1alpha1.KubeconfigKey: []byte("never read")}
		_, err := Access{Secrets: fake.NewClientBuilder().WithObjects(secret).Build()}.Config(t.Context(), uc)
		_, blocked := errors.AsType[*controlplane.BlockedError](err)
		if !blocked || !strings.Contains(err.Error(), "label it keyturn.dev/") || !strings.Contains(err.Error(), "keys/access") {
			t.Errorf("%s: %v, want an error that blocks and says how to mark the Secret", name, err)
		}
	}
}
