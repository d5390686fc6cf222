// Package version contains the version of a Keyturn binary.
package version

import (
	"cmp"
	"runtime"
	"runtime/debug"
)

// version is set by the linker for releases:
//
//	-ldflags "-X github.com/keyturn/keyturn/internal/version.version=v0.1.0"
var version string

// Info is the version of a binary.
type Info struct {
	// Version is, for example, "v0.1.0", or "devel" for a build that is not a release.
	Version string `json:"version"`
	// Commit is the commit of the source; empty if the build did not know it. It ends in "-dirty" if files were
	// changed.
	Commit    string `json:"commit,omitempty"`
	GoVersion string `json:"goVersion"`
	// Platform is, for example, "linux/amd64".
	Platform string `json:"platform"`
}

// Get returns the version of this binary.
func Get() Info {
	info := Info{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if ok {
		info.Commit = commit(build.Settings)
		if v := build.Main.Version; v != "(devel)" {
			info.Version = cmp.Or(info.Version, v)
		}
	}
	info.Version = cmp.Or(info.Version, "devel")
	return info
}

func commit(settings []debug.BuildSetting) string {
	var revision, suffix string
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + suffix
}
