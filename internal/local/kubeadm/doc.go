// Package kubeadm makes clusters on this host as people make them: by kubeadm, on machines with a kubelet and
// containerd. They are there to try and test Keyturn on clusters that it did not make. They have nothing of Keyturn in
// them.
//
// Cluster is where to start: Init makes the first control-plane node, Join further nodes, and Delete removes all of it.
// Package machine makes the machines, so all of its comment applies: they share the host's kernel, control groups and
// programs in /usr, and have no systemd. An HAProxy in front of the API servers is what a platform would have as a load
// balancer.
//
// The programs of the control plane run as static pods from images that are made of the Kubernetes programs in a
// directory, since no registry is asked for anything. kube-proxy is not a DaemonSet, but a service of each machine: its
// image would need nft, which is not a static program.
package kubeadm
