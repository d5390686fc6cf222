package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/spdx/tools-golang/json"
	"sigs.k8s.io/yaml"
)

// here is the directory of this package.
var here, _ = os.Getwd()

// TestReproducible packs a release twice, from two copies of the source whose files have other times and modes. One
// copy is a git repository. It wants the same bytes, and checks what is in them. One small program, which is built in
// each copy, stands for all.
func TestReproducible(t *testing.T) {
	wantSame(t, func(t *testing.T, r *release) {
		t.Helper()
		r.programs = t.TempDir()
		if err := os.Mkdir(r.dir(r.platforms[0]), 0o755); err != nil {
			t.Fatal(err)
		}
		built := filepath.Join(t.TempDir(), "program")
		if err := r.goBuild(t.Context(), r.platforms[0], built, "./cmd/keyturn-pause"); err != nil {
			t.Fatal(err)
		}
		for _, name := range programsOf(r.platforms[0]) {
			if err := os.Link(built, filepath.Join(r.dir(r.platforms[0]), name)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestReproducibleBuild does the same with all programs, each of which is linked twice.
func TestReproducibleBuild(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("compiles and links all programs: set KEYTURN_TEST_LONG")
	}
	wantSame(t, func(*testing.T, *release) {})
}

// wantSame makes a release for this machine in two copies of the source. prepare is called in each before.
func wantSame(t *testing.T, prepare func(*testing.T, *release)) {
	t.Helper()
	helm, validate := tool(t, "helm"), tool(t, "validate-krew-manifest")
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	t.Setenv("GOFLAGS", os.Getenv("GOFLAGS")+" -buildvcs=auto") // the default, if the user has set another
	var releases []map[string][]byte
	for i, umask := range []int{0o022, 0o077} {
		t.Chdir(copySource(t, umask, time.Unix(int64(1e9*i), 0)))
		if i > 0 {
			commitSource(t)
		}
		r := &release{version: "v9.9.9", helm: helm, validate: validate, log: t.Output()}
		if err := r.parse("linux/" + runtime.GOARCH); err != nil {
			t.Fatal(err)
		}
		prepare(t, r)
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		releases = append(releases, filesOf(t, r))
	}
	for name, content := range releases[0] {
		if !bytes.Equal(content, releases[1][name]) {
			t.Errorf("%s differs", name)
		}
	}
	if len(releases[0]) != len(releases[1]) {
		t.Errorf("%d files, and then %d", len(releases[0]), len(releases[1]))
	}
}

// tool returns the path of a program in bin/tools.
func tool(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(here, "../../bin/tools", name)
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v\nhint: run `make bin/tools/%s`", err, name)
	}
	return program
}

// copySource copies the files of the repository, and sets their time.
func copySource(t *testing.T, umask int, at time.Time) string {
	t.Helper()
	defer syscall.Umask(syscall.Umask(umask))
	dir := filepath.Join(t.TempDir(), "source")
	root := filepath.Dir(filepath.Dir(here))
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		to := filepath.Join(dir, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o777)
		}
		if err == nil {
			err = os.WriteFile(to, content, 0o666)
		}
		if err == nil {
			err = os.Chtimes(to, at, at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// commitSource makes the working directory a git repository with one commit.
func commitSource(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "--all"},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message", "source"},
	} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", args[0], err, out)
		}
	}
}

// filesOf checks a release, and returns its files.
func filesOf(t *testing.T, r *release) map[string][]byte {
	t.Helper()
	checkSums(t, r)
	checkManifest(t, r)
	checkDocument(t, r)
	checkImage(t, r)
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(r.out), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[name], err = os.ReadFile(filepath.Join(r.out, name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, files)
	return files
}

// checkFiles looks for what a release has to have.
func checkFiles(t *testing.T, files map[string][]byte) {
	t.Helper()
	platform := "_v9.9.9_linux_" + runtime.GOARCH + ".tar.gz"
	for _, name := range []string{
		"gkectl" + platform, "kubectl-keyturn" + platform, "keyturn" + platform, "keyturn-9.9.9.tgz",
		"keyturn_v9.9.9.spdx.json",
		"keyturn.yaml", "images/keyturn-controller.tar", "images/gkectl.tar", checksumsFile,
	} {
		if len(files[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	var names []string
	packed, err := untar(files["kubectl-keyturn"+platform])
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range packed {
		names = append(names, f.name)
	}
	for _, name := range []string{
		"LICENSE", "completion/kubectl-keyturn.bash", "completion/kubectl-keyturn.fish",
		"completion/kubectl-keyturn.powershell", "completion/kubectl-keyturn.zsh", "kubectl-keyturn",
		"man/man1/kubectl-keyturn.1", "man/man1/kubectl-keyturn-rotate.1",
	} {
		if !slices.Contains(names, name) {
			t.Errorf("the archive of the plugin lacks %s", name)
		}
	}
	ofGkectl := func(name string) bool { return strings.Contains(name, "gkectl") }
	if slices.ContainsFunc(names, ofGkectl) || !slices.IsSorted(names) {
		t.Errorf("the archive of the plugin has %q", names)
	}
	host, err := untar(files["keyturn"+platform])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keyturn-local", "man/man8/keyturn-local.8", "man/man1/gkectl-create-admin.1"} {
		if !slices.ContainsFunc(host, func(f file) bool { return f.name == name }) {
			t.Errorf("the archive of a host lacks %s", name)
		}
	}
	chart, err := untar(files["keyturn-9.9.9.tgz"])
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(chart, func(f file) bool { return f.name == "keyturn/Chart.yaml" })
	if i < 0 || !strings.Contains(string(chart[i].content), "appVersion: v9.9.9\n") {
		t.Errorf("the chart is not of the version")
	}
}

// checkSums has sha256sum check the files, as people do.
func checkSums(t *testing.T, r *release) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", checksumsFile)
	cmd.Dir = r.out
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v: %s", err, out)
	}
}

func checkManifest(t *testing.T, r *release) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.out, "keyturn.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Spec struct {
			Version   string
			Platforms []struct{ URI, SHA256, Bin string }
		}
	}
	if err := yaml.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	p := manifest.Spec.Platforms
	if manifest.Spec.Version != "v9.9.9" || len(p) != 1 || len(p[0].SHA256) != 64 || p[0].Bin != "kubectl-keyturn" ||
		!strings.HasSuffix(p[0].URI, "/v9.9.9/"+r.archiveName("kubectl-keyturn", r.platforms[0])) {
		t.Errorf("the manifest for krew is\n%s", raw)
	}
}

func checkDocument(t *testing.T, r *release) {
	t.Helper()
	f, err := os.Open(filepath.Join(r.out, "keyturn_v9.9.9.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := json.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	ids, versions := map[string]bool{}, map[string]string{}
	for _, p := range d.Packages {
		if id := string(p.PackageSPDXIdentifier); ids[id] {
			t.Errorf("two packages have the identifier %s", id)
		}
		ids[string(p.PackageSPDXIdentifier)] = true
		versions[p.PackageName] = p.PackageVersion
	}
	if versions["stdlib"] != runtime.Version() || versions["gkectl"] != "v9.9.9" {
		t.Errorf("the SBOM names %v", versions)
	}
	for _, rel := range d.Relationships {
		if !ids[string(rel.RefB.ElementRefID)] {
			t.Errorf("the SBOM relates to %s, which it lacks", rel.RefB.ElementRefID)
		}
	}
}

func checkImage(t *testing.T, r *release) {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(r.out, "images", "keyturn-signer.tar")
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ version, platforms, want string }{
		{"v0.1.0", "linux/amd64,darwin/arm64", ""},
		{"v0.1.0-rc.1", "linux/arm64", ""},
		{"", "linux/amd64", "is not a version"},
		{"0.1.0", "linux/amd64", "is not a version"},
		{"v0.1", "linux/amd64", "is not a version"},
		{"v0.1.0/../x", "linux/amd64", "is not a version"},
		{"v0.1.0", "windows/amd64", `platform "windows/amd64"`},
		{"v0.1.0", "linux", `platform "linux"`},
	} {
		err := (&release{version: c.version}).parse(c.platforms)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v", c.version, c.platforms, err)
		}
	}
}
