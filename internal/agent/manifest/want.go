package manifest

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// The annotations that Keyturn writes.
const (
	// RestartAnnotation restarts kube-apiserver, or kube-controller-manager, when it changes: the kubelet takes a
	// changed pod for another one.
	RestartAnnotation = "keyturn.dev/ksa-keys"
	// addedFlag names the flag that is there because Keyturn added it.
	addedFlag = "keyturn.dev/added-flag"
)

// The flags that Keyturn writes.
const (
	keyFileFlag    = "service-account-key-file"
	signingFlag    = "service-account-signing-key-file"
	endpointFlag   = "service-account-signing-endpoint"
	expirationFlag = "service-account-max-token-expiration"
	retryAfterFlag = "shutdown-send-retry-after"
)

// signerVolume shows kube-apiserver the directory with the socket of its signer.
const signerVolume = "keyturn-signer"

// Keys is where a kube-apiserver has its keys from.
type Keys struct {
	// Public and Private are the files with the verification keys and with the signing key.
	Public, Private string
	// Socket is the socket of its signer, in a directory of its own.
	Socket string
	// MaxExpiration is the longest life of a token that the signer signs.
	MaxExpiration time.Duration
}

// Want is how a manifest has to be.
type Want struct {
	// Restart is the value of RestartAnnotation.
	Restart string
	// External means that kube-apiserver asks its signer, and does not read the files.
	External bool
	// RetryAfter adds --shutdown-send-retry-after=true, with which the next restart takes 15 s instead of 40 s. False
	// takes the flag out again, if Keyturn added it.
	RetryAfter bool
}

// With returns the manifest as it is wanted. It refuses a manifest whose keys come from elsewhere than k names.
func (m *Manifest) With(w Want, k Keys) (*Manifest, error) {
	next, err := m.with(w, k)
	if err != nil {
		return nil, fmt.Errorf("editing the manifest of kube-apiserver: %w", err)
	}
	return next, nil
}

func (m *Manifest) with(w Want, k Keys) (*Manifest, error) {
	external, err := m.External(k)
	if err != nil {
		return nil, err
	}
	next := m
	switch {
	case w.External && !external:
		next, err = m.toSigner(k)
	case !w.External && external:
		next, err = m.toFiles(k)
	}
	if err != nil {
		return nil, err
	}
	if next, err = next.withRetryAfter(w.RetryAfter); err != nil {
		return nil, err
	}
	return next.SetAnnotation(RestartAnnotation, w.Restart)
}

// External reports whether kube-apiserver asks the signer of k. It returns an error when its keys come from neither
// that signer nor the files of k, or from more than these.
func (m *Manifest) External(k Keys) (bool, error) {
	endpoints, public, private := m.Flag(endpointFlag), m.Flag(keyFileFlag), m.Flag(signingFlag)
	is := func(values []string, want string) bool { return len(values) == 1 && values[0] == want }
	switch {
	case is(endpoints, k.Socket) && len(public) == 0 && len(private) == 0:
		return true, nil
	case len(endpoints) > 0:
		return false, fmt.Errorf("kube-apiserver has a signer that is not Keyturn's: --%s=%s", endpointFlag, endpoints[0])
	case is(public, k.Public) && is(private, k.Private):
		return false, nil
	}
	return false, fmt.Errorf("kube-apiserver reads its keys from --%s %q and --%s %q, want only %s and %s",
		keyFileFlag, public, signingFlag, private, k.Public, k.Private)
}

// toSigner puts the endpoint into the line of one key file, so that toFiles leads back to the same bytes.
func (m *Manifest) toSigner(k Keys) (*Manifest, error) {
	if !m.Root() {
		return nil, errors.New("kube-apiserver does not run as root, and only root may reach the socket of its signer\n" +
			"hint: use source files")
	}
	if err := m.checkExpiration(k.MaxExpiration); err != nil {
		return nil, err
	}
	next, err := m.ReplaceFlag(signingFlag, Flag{endpointFlag, k.Socket})
	if err != nil {
		return nil, err
	}
	if next, err = next.RemoveFlag(keyFileFlag); err != nil {
		return nil, err
	}
	return next.AddHostPath(signerVolume, path.Dir(k.Socket))
}

// checkExpiration refuses a flag with which kube-apiserver would end at its start, because the signer allows less.
func (m *Manifest) checkExpiration(limit time.Duration) error {
	for _, value := range m.Flag(expirationFlag) {
		if d, err := time.ParseDuration(value); err != nil || d > limit {
			return fmt.Errorf("--%s=%s: the signer signs tokens for at most %v", expirationFlag, value, limit)
		}
	}
	return nil
}

func (m *Manifest) toFiles(k Keys) (*Manifest, error) {
	next, err := m.ReplaceFlag(endpointFlag, Flag{signingFlag, k.Private})
	if err != nil {
		return nil, err
	}
	if next, err = next.AddFlag(Flag{keyFileFlag, k.Public}, next.afterKeyFile()); err != nil {
		return nil, err
	}
	return next.RemoveHostPath(signerVolume, path.Dir(k.Socket))
}

// afterKeyFile returns the flag before which kubeadm writes --service-account-key-file: it sorts flags, at least its
// own.
func (m *Manifest) afterKeyFile() string {
	for _, f := range m.Flags() {
		if strings.HasPrefix(f.Name, "service-account-") && f.Name > keyFileFlag {
			return f.Name
		}
	}
	return ""
}

func (m *Manifest) withRetryAfter(want bool) (*Manifest, error) {
	added, _ := m.Annotation(addedFlag)
	switch {
	case want && len(m.Flag(retryAfterFlag)) == 0:
		next, err := m.AddFlag(Flag{retryAfterFlag, "true"}, "")
		if err != nil {
			return nil, err
		}
		return next.SetAnnotation(addedFlag, retryAfterFlag)
	case !want && added == retryAfterFlag:
		next, err := m.RemoveFlag(retryAfterFlag)
		if err != nil {
			return nil, err
		}
		return next.RemoveAnnotation(addedFlag)
	}
	return m, nil
}
