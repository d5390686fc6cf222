// Package hostkeys stores the signing keys of one control-plane machine on its disk: the keys of its kube-apiserver, of
// the signer next to that, and of its kube-controller-manager.
//
// Start with APIServer and ControllerManager. Each has a key directory, in which configured.json names the key versions
// that the process should run with. The key files are next to it, with the version in their names:
//
//	configured.json   {"Verify":[1,2],"Sign":1}
//	sa-1.pub, sa-2.pub   verification keys
//	sa-1.key             signing key
//
// A file of a key version never changes its key. So a process that starts while its keys are being changed gets either
// the old or the new ones, never a mix. An API server with external keys has no key files but a signer, whose key
// directory (package keydir) follows from configured.json.
//
// The package guarantees, even if the machine loses power at any moment:
//
//   - what configured.json names is on disk: key files are written before it, and deleted when neither it nor the
//     running process needs them;
//   - configured.json never goes back: Configure refuses keys of an earlier stage (rotation.Keys.Stage) than it holds,
//     and an older signing key of a kube-controller-manager. That stops a controller which was paused and acts on an
//     old plan, one that was blind for a while, and one whose store was restored from a backup. The comparison and the
//     write are one step among processes, by a lock on the directory;
//   - a call that was cut off is finished by the next one, which also deletes what the first one left;
//   - a file that is replaced keeps its owner, group and mode. New files have mode 0600 and new directories 0700;
//   - nothing is read, written or deleted outside the directories, also not through links, and no file is deleted whose
//     name is not one of those above.
//
// The package knows neither Kubernetes nor what runs the processes, and neither starts nor stops them.
package hostkeys
