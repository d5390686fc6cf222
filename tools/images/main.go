// Command images packs the programs that run in clusters as OCI archives. `make images` runs it.
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/image"
)

func main() {
	from := flag.String("programs", "bin", "directory of the programs")
	architectures := flag.String("architectures", "",
		"`architectures` of an image index, such as amd64,arm64, whose programs are in "+
			"the directories linux_ARCHITECTURE of that one; empty: an image of the programs in it, for this machine")
	out := flag.String("out", "bin/images", "directory for the archives")
	repository := flag.String("repository", "localhost/keyturn", "first part of the names of the images")
	version := flag.String("version", "dev", "tag of the images")
	flag.Parse()
	m := maker{from: *from, out: *out, repository: *repository, version: *version}
	if *architectures != "" {
		m.architectures = strings.Split(*architectures, ",")
	}
	if err := m.build(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if advice := hint.Of(err); advice != "" {
			fmt.Fprintln(os.Stderr, "hint:", advice)
		}
		os.Exit(1)
	}
}

// maker makes the archives. Without architectures, each has one image.
type maker struct {
	from, out, repository, version string
	architectures                  []string
}

// build writes an archive of each program.
func (m maker) build() error {
	if err := os.MkdirAll(m.out, 0o755); err != nil {
		return err
	}
	for name, p := range image.Programs {
		if err := m.pack(name, p); err != nil {
			return err
		}
	}
	return nil
}

func (m maker) pack(name string, p image.Program) error {
	built := []image.Built{{Path: filepath.Join(m.from, name)}}
	if len(m.architectures) > 0 {
		built = nil
		for _, a := range m.architectures {
			built = append(built, image.Built{Architecture: a, Path: filepath.Join(m.from, "linux_"+a, name)})
		}
	}
	info, err := buildinfo.ReadFile(built[0].Path)
	if err != nil {
		return hint.Errorf("run `make build`", "reading %s: %w", built[0].Path, err)
	}
	archive, reference := filepath.Join(m.out, name+".tar"), m.repository+"/"+name+":"+m.version
	c := image.Config{User: p.User, Labels: labels(name, p.What, m.version, info)}
	if len(m.architectures) == 0 {
		return image.Build(archive, reference, built[0].Path, c)
	}
	return image.BuildIndex(archive, reference, built, c)
}

// labels describe an image as the OCI image specification has it.
func labels(name, what, version string, info *buildinfo.BuildInfo) map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":       name,
		"org.opencontainers.image.description": what,
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://" + info.Main.Path,
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			all["org.opencontainers.image.revision"] = s.Value
		}
	}
	return all
}
