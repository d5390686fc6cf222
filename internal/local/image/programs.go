package image

// Program is a program that `make images` packs as an image.
type Program struct {
	// What is a one-line description, and User runs it; empty means root.
	What, User string
}

// nonRoot is a number, since a kubelet can verify only a number not to be root.
const nonRoot = "65532"

// Programs are the programs that run in clusters, by name.
var Programs = map[string]Program{
	"gkectl":             {What: "Rotates the signing keys of user clusters on a schedule", User: nonRoot},
	"keyturn-agent":      {What: "Changes the keys of one control-plane node that kubeadm made"},
	"keyturn-controller": {What: "Rotates the signing keys of the UserClusters of an admin cluster", User: nonRoot},
	"keyturn-signer":     {What: "Signs the service account tokens of one kube-apiserver", User: nonRoot},
}
