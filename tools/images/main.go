// Command images packs the programs that run in clusters as OCI archives. `make images` runs it.
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/image"
)

func main() {
	from := flag.String("programs", "bin", "directory of the programs")
	out := flag.String("out", "bin/images", "directory for the archives")
	repository := flag.String("repository", "localhost/keyturn", "first part of the names of the images")
	version := flag.String("version", "dev", "tag of the images")
	flag.Parse()
	if err := build(*from, *out, *repository, *version); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if advice := hint.Of(err); advice != "" {
			fmt.Fprintln(os.Stderr, "hint:", advice)
		}
		os.Exit(1)
	}
}

// build writes an archive of each program.
func build(from, out, repository, version string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, p := range image.Programs {
		program := filepath.Join(from, name)
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return hint.Errorf("run `make build`", "reading %s: %w", program, err)
		}
		c := image.Config{User: p.User, Labels: labels(name, p.What, version, info)}
		if err := image.Build(filepath.Join(out, name+".tar"), repository+"/"+name+":"+version, program, c); err != nil {
			return err
		}
	}
	return nil
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
