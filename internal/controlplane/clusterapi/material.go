package clusterapi

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// fieldManager is who the controller is to the API server when it writes the material.
const fieldManager = "keyturn-controller"

// Annotations of the material: the stage of the keys that the controller wrote last, and the value of
// v1alpha1.AnnotationRetryChange with which it did.
const (
	stageAnnotation = "keyturn.dev/ksa-signing-key-stage"
	retryAnnotation = v1alpha1.AnnotationRetryChange
)

// unknownKeys are the keys of a material that matches no step. Their stage is earlier than any step's.
var unknownKeys = rotation.Keys{Verify: []int{0}}

// material is Secret CLUSTER-sa: what the next control-plane machine starts with.
type material struct {
	secret *corev1.Secret
	// keys are zero without a Secret, since Cluster API makes no machine then, and before the cluster is adopted.
	keys rotation.Keys
	// signer is its private key, and keyID the kid of that; nil if it cannot be read.
	signer crypto.Signer
	keyID  string
	// foreign are the public keys that are no version of ours.
	foreign []jwks.Key
}

// memory is what is remembered of a cluster.
type memory struct {
	mu sync.Mutex
	// uid is the UID of its Cluster; empty until it was observed.
	uid types.UID
	// stage is the stage of the keys that were written last.
	stage int
	// retried is the value of v1alpha1.AnnotationRetryChange with which they were written.
	retried string
	// rolled are the requests to replace machines, by what makes these.
	rolled map[string]rollRequest
	// entitled reports whether the controller was found to have the rights to make them.
	entitled bool
}

// material reads the Secret.
func (c *Cluster) material(ctx context.Context) (m material, err error) {
	key := c.management.key(c.management.cluster + "-sa")
	secret := &corev1.Secret{}
	if err := c.management.Get(ctx, key, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return m, nil
		}
		return m, fmt.Errorf("reading Secret %s: %w", key, lasting(err))
	}
	keys, err := c.keys.List(ctx, keystore.ClusterOf(c.uc))
	if err != nil {
		return m, err
	}
	return readMaterial(secret, versionsOf(c.uc, keys)), nil
}

// versionsOf are the key versions by kid, stored and retired.
func versionsOf(uc *v1alpha1.UserCluster, keys []keystore.KeyPair) map[string]int {
	versions := map[string]int{}
	if s := uc.Status.Infrastructure.Adopted(); s != nil && len(keys) > 0 {
		for _, r := range s.Retired {
			versions[r.KeyID] = int(r.Version)
		}
	}
	for _, k := range keys {
		versions[k.KeyID] = k.Version
	}
	return versions
}

// readMaterial works out which key versions a Secret has. Whether API servers get them from files or from a signer is
// nothing that a machine starts with: it has files, and gets its signer once it is there.
func readMaterial(secret *corev1.Secret, versions map[string]int) material {
	m := material{secret: secret}
	if signer, err := token.ParsePrivateKey(secret.Data[corev1.TLSPrivateKeyKey]); err == nil {
		m.signer = signer
		m.keyID, _ = jwks.KeyID(signer.Public())
	}
	if len(versions) == 0 {
		return m
	}
	m.keys.Sign = versions[m.keyID]
	public, err := keyutil.ParsePublicKeysPEM(secret.Data[corev1.TLSCertKey])
	for _, p := range public {
		k, err := jwks.NewKey(p)
		if err != nil {
			continue // no API server that Keyturn rotates has it
		}
		if version, ours := versions[k.KeyID]; !ours {
			m.foreign = append(m.foreign, k)
		} else if !slices.Contains(m.keys.Verify, version) {
			m.keys.Verify = append(m.keys.Verify, version)
		}
	}
	slices.Sort(m.keys.Verify)
	if err != nil || hostkeys.Check(m.keys) != nil {
		m.keys = unknownKeys
	}
	return m
}

// sourced returns keys as they are once a machine that starts with them has what the spec wants.
func (c *Cluster) sourced(k rotation.Keys) rotation.Keys {
	k.External = !k.IsZero() && c.uc.Spec.KeySource() == v1alpha1.KeySourceExternal
	return k
}

// give writes keys into the Secret, as it was read: whoever wrote it meanwhile wins. A crash after it leaves a machine
// that comes now one step ahead of the others, as any may be in a change.
func (c *Cluster) give(ctx context.Context, m material, t controlplane.Target, keys []keystore.KeyPair) error {
	if m.secret == nil {
		return nil
	}
	name := client.ObjectKeyFromObject(m.secret)
	if uid := m.secret.Labels[v1alpha1.LabelClusterUID]; uid != "" && uid != c.uc.Identity() {
		return controlplane.Blocked(fmt.Errorf("another UserCluster rotates the keys of this cluster: Secret %s has the "+
			"label %s=%s; if that UserCluster is gone, remove the label", name, v1alpha1.LabelClusterUID, uid))
	}
	retry := c.uc.Annotations[v1alpha1.AnnotationRetryChange]
	if c.memory.reverted(m, t) && !c.memory.retries(m, retry) {
		return controlplane.Blocked(fmt.Errorf("%s put back keys of an earlier step in Secret %s: have that leave tls.crt "+
			"and tls.key alone, and then annotate the UserCluster with %s=VALUE, a new one each time",
			writer(m.secret), name, v1alpha1.AnnotationRetryChange))
	}
	secret, err := c.compose(m, t, keys)
	if err != nil {
		return fmt.Errorf("composing Secret %s: %w", name, err)
	}
	if err := c.client.Update(ctx, secret, client.FieldOwner(fieldManager)); err != nil {
		return fmt.Errorf("updating Secret %s: %w", name, lasting(err))
	}
	c.memory.wrote(t.Keys.Stage(), retry)
	return nil
}

// letGo removes the marks of Keyturn from the Secret, and leaves its keys.
func (c *Cluster) letGo(ctx context.Context) (gone bool, err error) {
	m, err := c.material(ctx)
	if err != nil || m.secret == nil || m.secret.Labels[v1alpha1.LabelClusterUID] != c.uc.Identity() {
		return err == nil, err
	}
	delete(m.secret.Labels, v1alpha1.LabelClusterUID)
	delete(m.secret.Annotations, stageAnnotation)
	delete(m.secret.Annotations, retryAnnotation)
	if err := c.client.Update(ctx, m.secret, client.FieldOwner(fieldManager)); err != nil {
		return false, fmt.Errorf("letting go of Secret %s: %w", client.ObjectKeyFromObject(m.secret), lasting(err))
	}
	return true, nil
}

// compose returns the Secret with the keys of a target.
func (c *Cluster) compose(m material, t controlplane.Target, keys []keystore.KeyPair) (*corev1.Secret, error) {
	public, private, err := c.files(m, t, keys)
	if err != nil {
		return nil, err
	}
	secret := m.secret.DeepCopy()
	metav1.SetMetaDataLabel(&secret.ObjectMeta, v1alpha1.LabelClusterUID, c.uc.Identity())
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, stageAnnotation, strconv.Itoa(t.Keys.Stage()))
	if retry := c.uc.Annotations[v1alpha1.AnnotationRetryChange]; retry != "" {
		metav1.SetMetaDataAnnotation(&secret.ObjectMeta, retryAnnotation, retry)
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey] = public, private
	return secret, nil
}

// files returns sa.pub and sa.key: the signing key's public key first, since kubeadm takes the first one for that of
// sa.key, then the other versions, then foreign keys.
func (c *Cluster) files(
	m material, t controlplane.Target, keys []keystore.KeyPair,
) (public, private []byte, err error) {
	var all []crypto.PublicKey
	for _, version := range signingFirst(t.Keys) {
		i := slices.IndexFunc(keys, func(k keystore.KeyPair) bool { return k.Version == version })
		if i < 0 {
			return nil, nil, fmt.Errorf("key version %d is not stored", version)
		}
		all = append(all, keys[i].Signer.Public())
		if version == t.Keys.Sign {
			if private, err = token.MarshalPrivateKey(keys[i].Signer); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, k := range m.foreign {
		if !slices.Contains(t.DropForeign, k.KeyID) {
			all = append(all, k.Public)
		}
	}
	for _, k := range all {
		text, err := jwks.MarshalPublicKey(k)
		if err != nil {
			return nil, nil, err
		}
		public = append(public, text...)
	}
	return public, private, nil
}

// signingFirst returns the versions of keys, the one that signs first.
func signingFirst(k rotation.Keys) []int {
	others := slices.DeleteFunc(slices.Clone(k.Verify), func(v int) bool { return v == k.Sign })
	return append([]int{k.Sign}, others...)
}

// foreignKeys are the kids of the keys that are no version of ours.
func (m material) foreignKeys() (kids []string) {
	for _, k := range m.foreign {
		kids = append(kids, k.KeyID)
	}
	return kids
}

// common reports whether two lists have a kid in common.
func common(a, b []string) bool {
	return slices.ContainsFunc(a, func(kid string) bool { return slices.Contains(b, kid) })
}

// reverted reports whether somebody has put back keys of an earlier step. The controller remembers what it wrote, the
// Secret has it too unless all of it was replaced, and no step begins before the material has the keys of the one
// before.
func (r *memory) reverted(m material, t controlplane.Target) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	stage := m.keys.Stage()
	noted, err := strconv.Atoi(m.secret.Annotations[stageAnnotation])
	skipped := stage < t.Keys.Stage()-1 && slices.Max(t.Keys.Verify) > 1
	return stage < r.stage || err == nil && stage < noted || skipped
}

// retries reports whether a value asks for one more write that none before was for.
func (r *memory) retries(m material, value string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return value != "" && value != r.retried && value != m.secret.Annotations[retryAnnotation]
}

func (r *memory) saw(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uid = uid
}

func (r *memory) wrote(stage int, retried string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stage, r.retried = stage, retried
}

// writer names the field managers that own the keys of the Secret.
func writer(secret *corev1.Secret) string {
	public, private := []string{"f:data", "f:" + corev1.TLSCertKey}, []string{"f:data", "f:" + corev1.TLSPrivateKeyKey}
	return inWords(append(managers(secret, public...), managers(secret, private...)...))
}

// managers returns the field managers other than ours that own a field of an object.
func managers(o metav1.Object, path ...string) (names []string) {
	for _, entry := range o.GetManagedFields() {
		if entry.Manager == fieldManager || entry.FieldsV1 == nil {
			continue
		}
		at, owns := json.RawMessage(entry.FieldsV1.GetRawBytes()), true
		for _, name := range path {
			var fields map[string]json.RawMessage
			owns = json.Unmarshal(at, &fields) == nil && fields[name] != nil
			if at = fields[name]; !owns {
				break
			}
		}
		if owns {
			names = append(names, entry.Manager)
		}
	}
	return names
}

// inWords names field managers.
func inWords(names []string) string {
	var quoted []string
	for _, name := range names {
		quoted = append(quoted, fmt.Sprintf("%q", printable.Text(name, 100)))
	}
	if len(quoted) == 0 {
		return "somebody"
	}
	slices.Sort(quoted)
	return "field manager " + strings.Join(slices.Compact(quoted), " and ")
}
