package image

// Program is a program of which `make images` makes an image.
type Program struct {
	// What is a description in one line, and User runs it; empty means root.
	What, User string
}

// nonRoot is a number: only so can a kubelet see that it is not root.
const nonRoot = "65532"

// Programs are what runs in clusters, by name.
var Programs = map[string]Program{
	"gkectl":             {What: "Rotates the signing keys of user clusters on a schedule", User: nonRoot},
	"keyturn-agent":      {What: "Changes the keys of one control-plane node that kubeadm made"},
	"keyturn-controller": {What: "Rotates the signing keys of the UserClusters of an admin cluster", User: nonRoot},
	"keyturn-signer":     {What: "Signs the service account tokens of one kube-apiserver", User: nonRoot},
}
