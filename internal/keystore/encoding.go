package keystore

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// The data of a key Secret.
const (
	privateKeyEntry = "private.pem" // PKCS #8
	publicKeyEntry  = "public.pem"  // PKIX
	keyIDEntry      = "kid"
	algorithmEntry  = "algorithm"
)

// The pattern is greedy, since the name of a cluster may itself look like that of a key Secret.
var secretNamePattern = regexp.MustCompile(`^(.+)-ksa-signing-key-([1-9][0-9]{0,8})$`)

func secretName(c Cluster, version int) string {
	return fmt.Sprintf("%s-ksa-signing-key-%d", c.Name, version)
}

// named reports whether a key Secret has a name of one of the cluster's key Secrets.
func named(name string, c Cluster) bool {
	m := secretNamePattern.FindStringSubmatch(name)
	return m != nil && m[1] == c.Name
}

// checkOwner returns ErrForeign, and what to do, for a key Secret of another cluster, including one that had the same
// name.
func checkOwner(c Cluster, o metav1.Object) error {
	if uid := o.GetLabels()[v1alpha1.LabelClusterUID]; uid != c.UID {
		return fmt.Errorf("%w: its label %s is %q, and the UID of the cluster is %s; "+
			"docs/operations/recover.md says how to delete or to keep it",
			ErrForeign, v1alpha1.LabelClusterUID, uid, c.UID)
	}
	return nil
}

// String returns namespace/name.
func (c Cluster) String() string { return c.Namespace + "/" + c.Name }

func encode(c Cluster, k KeyPair) (*corev1.Secret, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	if c.UID == "" {
		return nil, errors.New("the UID of the cluster is not given")
	}
	private, err := token.MarshalPrivateKey(k.Signer)
	if err != nil {
		return nil, fmt.Errorf("key version %d: %w", k.Version, err)
	}
	public, err := jwks.MarshalPublicKey(k.Signer.Public())
	if err != nil {
		return nil, fmt.Errorf("key version %d: %w", k.Version, err)
	}
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name:      secretName(c, k.Version),
			Namespace: c.Namespace,
			Labels:    labelsOf(c, k.Version),
		},
		Immutable: &immutable,
		Type:      v1alpha1.SecretTypeSigningKey,
		Data: map[string][]byte{
			privateKeyEntry: private,
			publicKeyEntry:  public,
			keyIDEntry:      []byte(k.KeyID),
			algorithmEntry:  []byte(k.Algorithm),
		},
	}
	if c.Moves {
		secret.Labels[v1alpha1.LabelMove] = ""
	}
	return secret, nil
}

func labelsOf(c Cluster, version int) map[string]string {
	return map[string]string{
		v1alpha1.LabelCluster: c.Name, v1alpha1.LabelClusterUID: c.UID, v1alpha1.LabelKeyVersion: strconv.Itoa(version),
	}
}

// decode reads a key Secret whose name is one of the cluster's. Everything that the Secret contains twice must agree.
func decode(c Cluster, s *corev1.Secret) (KeyPair, error) {
	version, err := strconv.Atoi(secretNamePattern.FindStringSubmatch(s.Name)[2])
	if err != nil {
		return KeyPair{}, errors.New("its name does not end in a version")
	}
	for label, want := range labelsOf(c, version) {
		if s.Labels[label] != want {
			return KeyPair{}, fmt.Errorf("its label %s is %q, not %q", label, s.Labels[label], want)
		}
	}
	signer, err := token.ParsePrivateKey(s.Data[privateKeyEntry])
	if err != nil {
		return KeyPair{}, fmt.Errorf("%s: %w", privateKeyEntry, err)
	}
	if err := checkPublic(signer.Public(), s.Data[publicKeyEntry]); err != nil {
		return KeyPair{}, err
	}
	k := KeyPair{
		Version:   version,
		Algorithm: string(s.Data[algorithmEntry]),
		KeyID:     string(s.Data[keyIDEntry]),
		Signer:    signer,
		CreatedAt: s.CreationTimestamp.Time,
	}
	return k, k.Validate()
}

func checkPublic(want crypto.PublicKey, data []byte) error {
	public, err := jwks.ParsePublicKey(data)
	if err != nil {
		return fmt.Errorf("%s: %w", publicKeyEntry, err)
	}
	a, err := jwks.MarshalPublicKey(want)
	if err != nil {
		return fmt.Errorf("%s: %w", privateKeyEntry, err)
	}
	b, err := jwks.MarshalPublicKey(public)
	if err != nil || !bytes.Equal(a, b) {
		return fmt.Errorf("%s is not the public key of %s", publicKeyEntry, privateKeyEntry)
	}
	return nil
}
