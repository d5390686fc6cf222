package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// none is what SPDX writes where nothing is claimed.
const none = "NOASSERTION"

// sbom writes an SPDX document: each program, and the modules that the build information in it names.
func (r *release) sbom(context.Context) error {
	d := r.document()
	modules := map[common.ElementID]bool{}
	for _, p := range r.platforms {
		for _, name := range programsOf(p) {
			if err := r.describe(d, modules, p, name); err != nil {
				return err
			}
		}
	}
	var out bytes.Buffer
	if err := json.Write(d, &out, json.Indent("  "), json.EscapeHTML(false)); err != nil {
		return err
	}
	return r.write("keyturn_"+r.version+".spdx.json", out.Bytes())
}

func (r *release) document() *v2_3.Document {
	return &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      "keyturn " + r.version,
		DocumentNamespace: "https://github.com/keyturn/keyturn/releases/" + r.version + "/spdx",
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "keyturn-tools-release"}},
			Created:  r.epoch.Format(time.RFC3339),
		},
	}
}

// describe adds one program, and the modules that are in it.
func (r *release) describe(d *v2_3.Document, modules map[common.ElementID]bool, p platform, name string) error {
	path := filepath.Join(r.dir(p), name)
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	sum, err := sumOf(path)
	if err != nil {
		return err
	}
	program := element("Program", name, p.file())
	d.Packages = append(d.Packages, &v2_3.Package{
		PackageName: name, PackageSPDXIdentifier: program, PackageVersion: r.version, PackageFileName: p.file() + "/" + name,
		PackageDownloadLocation: none, PackageLicenseConcluded: "Apache-2.0", PackageLicenseDeclared: "Apache-2.0",
		PackageCopyrightText: none, PrimaryPackagePurpose: "APPLICATION", IsFilesAnalyzedTagPresent: true,
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: fmt.Sprintf("%x", sum)}},
	})
	relate(d, "DOCUMENT", "DESCRIBES", program)
	standard := &debug.Module{Path: "stdlib", Version: info.GoVersion}
	for _, m := range append([]*debug.Module{standard}, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		id := element("Module", m.Path, m.Version)
		if !modules[id] {
			modules[id] = true
			d.Packages = append(d.Packages, module(id, m))
		}
		relate(d, program, "CONTAINS", id)
	}
	return nil
}

func module(id common.ElementID, m *debug.Module) *v2_3.Package {
	return &v2_3.Package{
		PackageName: m.Path, PackageSPDXIdentifier: id, PackageVersion: m.Version, PackageDownloadLocation: none,
		PackageLicenseConcluded: none, PackageLicenseDeclared: none, PackageCopyrightText: none,
		PrimaryPackagePurpose: "LIBRARY", IsFilesAnalyzedTagPresent: true,
		PackageExternalReferences: []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:golang/" + m.Path + "@" + m.Version,
		}},
	}
}

// notInID are the characters that an SPDX identifier may not have.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// element is the identifier of something. The kind and the parts tell it from every other.
func element(kind string, parts ...string) common.ElementID {
	id := strings.Builder{}
	id.WriteString(kind)
	for _, p := range parts {
		id.WriteString("-" + notInID.ReplaceAllString(p, "-"))
	}
	return common.ElementID(id.String())
}

func relate(d *v2_3.Document, a common.ElementID, what string, b common.ElementID) {
	d.Relationships = append(d.Relationships, &v2_3.Relationship{
		RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: what,
	})
}
