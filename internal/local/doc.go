// Package local is the test bed of Keyturn: whole clusters of real Kubernetes processes on this one host. It is to
// Keyturn what a hypervisor is to production. This package holds nothing; its rooms are, from the top:
//
//   - admincluster: the admin cluster and what runs beside it; gkectl and the program keyturn-local start here
//   - serve: user clusters served to controllers
//   - machines: the nodes of one user cluster
//   - plane: the control plane of one cluster, as processes
//   - components: what these processes are started with
//   - datadir: the data directory, its mark and lock, and the site of each cluster in it
//   - programs: where the binaries are
//   - kubeadm: clusters that the real kubeadm makes on machines of this host
//   - machine, network, process, image, pki, thread: what all of that is made of
//   - localtest: what the tests of these packages share
package local
