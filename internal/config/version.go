package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Releases are the releases of Kubernetes that `make kube` builds, one for each supported minor version, the newest
// first.
var Releases = []string{"v1.36.4", "v1.35.8"}

// DefaultVersion is the gkeOnPremVersion of new files.
const DefaultVersion = "1.36.4-gke.1"

var versionPattern = regexp.MustCompile(`^((?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*))\.(0|[1-9][0-9]*)-gke\.[0-9]+$`)

// Minors returns the minor versions of Releases, such as "1.36".
func Minors() []string {
	minors := make([]string, len(Releases))
	for i, release := range Releases {
		minors[i] = release[1:strings.LastIndexByte(release, '.')]
	}
	return minors
}

// kubernetesVersion returns the Kubernetes version of a gkeOnPremVersion, such as "v1.36.4". The patch number of
// Google's releases is a multiple of 100 and unrelated to that of Kubernetes: they get the release of their minor
// version.
func kubernetesVersion(gkeOnPremVersion string) (string, error) {
	m := versionPattern.FindStringSubmatch(gkeOnPremVersion)
	switch {
	case gkeOnPremVersion == "":
		return "", fmt.Errorf("is missing; for example %s", DefaultVersion)
	case m == nil:
		return "", fmt.Errorf("%q is not a version like %s", gkeOnPremVersion, DefaultVersion)
	}
	minor := slices.Index(Minors(), m[1])
	if minor < 0 {
		return "", fmt.Errorf("%q is not supported: clusters can have Kubernetes %s",
			gkeOnPremVersion, strings.Join(Minors(), " or "))
	}
	if m[2] == "0" || strings.HasSuffix(m[2], "00") {
		return Releases[minor], nil
	}
	return "v" + m[1] + "." + m[2], nil
}

// version validates a gkeOnPremVersion, and adds a note if the cluster gets another patch release than it names.
func (d *decoder) version(path, value string) {
	version, err := kubernetesVersion(value)
	switch written, _, _ := strings.Cut(value, "-"); {
	case err != nil:
		d.problem(path, "%v", err)
	case version != "v"+written:
		d.notes = append(d.notes, fmt.Sprintf("%s %s: the cluster gets Kubernetes %s", path, value, version))
	}
}
