package manifest

import (
	"encoding/json"
	"fmt"
	"path"
)

// PatchFile is the name under which kubeadm takes what Patch returns, in the directory of --patches.
const PatchFile = "kube-apiserver8keyturn+json.json"

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Patch returns the JSON patch with which `kubeadm upgrade --patches` writes a manifest that asks the signer of k. It
// tests first that the flags are where they are in the manifest without a signer: of another manifest, kubeadm
// refuses to make one, and has changed nothing then.
func (m *Manifest) Patch(k Keys) ([]byte, error) {
	text, err := m.patch(k)
	if err != nil {
		return nil, fmt.Errorf("making a patch of kubeadm: %w", err)
	}
	return append(text, '\n'), nil
}

func (m *Manifest) patch(k Keys) ([]byte, error) {
	files, err := m.with(Want{Restart: "none"}, k)
	if err != nil {
		return nil, err
	}
	if _, err := files.toSigner(k); err != nil { // what kubeadm writes can have no signer
		return nil, err
	}
	public, err := files.only(keyFileFlag)
	if err != nil {
		return nil, err
	}
	private, err := files.only(signingFlag)
	if err != nil {
		return nil, err
	}
	if public.list != private.list || public.index > private.index {
		return nil, fmt.Errorf("--%s and --%s are not where kubeadm writes them", keyFileFlag, signingFlag)
	}
	container := fmt.Sprintf("/spec/containers/%d/", files.index)
	at := func(a argument) string { return fmt.Sprintf("%s%s/%d", container, a.list, a.index) }
	dir := path.Dir(k.Socket)
	return json.MarshalIndent([]operation{
		{"test", at(public), public.String()},
		{"test", at(private), private.String()},
		{"replace", at(private), Flag{endpointFlag, k.Socket}.String()},
		{"remove", at(public), nil},
		{"add", container + "volumeMounts/-", mountMeaning(signerVolume, dir)},
		{"add", "/spec/volumes/-", volumeMeaning(signerVolume, dir)},
	}, "", "  ")
}
