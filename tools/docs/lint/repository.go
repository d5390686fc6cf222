package lint

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// repository is what is checked.
type repository struct {
	root string
	// pages are the Markdown files by their paths.
	pages map[string]*page
	// sources are the paths of Go files.
	sources []string
}

// open reads the files below a directory, but what was built or measured there and the data of tests.
func open(root string) (*repository, error) {
	r := &repository{root: root, pages: map[string]*page{}}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		switch base := d.Name(); {
		case d.IsDir() && (file == "bin" || file == "bench" || base == ".git" || base == "testdata"):
			return filepath.SkipDir
		case d.IsDir():
		case strings.HasSuffix(base, ".go"):
			r.sources = append(r.sources, file)
		case strings.HasSuffix(base, ".md"):
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			r.pages[file] = newPage(file, content)
		}
		return nil
	})
	return r, err
}

// exists reports whether there is a file or directory at a path, in which * stands for anything.
func (r *repository) exists(file string) bool {
	found, err := filepath.Glob(filepath.Join(r.root, filepath.FromSlash(file)))
	return err == nil && len(found) > 0
}

// read returns the files that match any of some patterns, one after the other.
func (r *repository) read(patterns ...string) (string, error) {
	var all strings.Builder
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(r.root, filepath.FromSlash(pattern)))
		if err != nil {
			return "", err
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			all.Write(content)
		}
	}
	return all.String(), nil
}

// directories are the names of those at the root.
func (r *repository) directories() (map[string]bool, error) {
	entries, err := os.ReadDir(r.root)
	names := map[string]bool{}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "bin" && e.Name() != ".git" {
			names[e.Name()] = true
		}
	}
	return names, err
}

// eachPage gathers faults of pages.
func (r *repository) eachPage(check func(*page, func(line int, text string))) (faults []Fault) {
	for _, p := range r.pages {
		check(p, func(line int, text string) { faults = append(faults, Fault{File: p.path, Line: line, Text: text}) })
	}
	return faults
}

// from returns the path to which one that a page names leads.
func (p *page) from(target string) string {
	if strings.HasPrefix(target, "/") {
		return path.Clean(target[1:])
	}
	return path.Join(path.Dir(p.path), target)
}
