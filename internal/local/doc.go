// Package local is the test bed of Keyturn: whole clusters of real Kubernetes processes on this host. It is to Keyturn
// what a hypervisor is to production. This package is empty; its subpackages are, from the top:
//
//   - admincluster: the admin cluster and the programs next to it, used by gkectl and keyturn-local
//   - serve: serves user clusters to controllers
//   - machines: the nodes of one user cluster
//   - plane: the control plane of one cluster, as processes
//   - components: the command lines and files of these processes
//   - datadir: the data directory, its mark and lock, and the site of each cluster in it
//   - programs: finds the binaries
//   - kubeadm: clusters that the real kubeadm makes on machines of this host
//   - capi: the real Cluster API, on machines of package kubeadm
//   - management: a management cluster for it, with Keyturn's controller
//   - machine, network, process, image, pki, thread: building blocks of the others
//   - localtest: shared by the tests of these packages
package local
