package lint

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/yuin/goldmark/ast"
)

// links finds links within the repository that lead nowhere.
func links(r *repository) ([]Fault, error) {
	return r.eachPage(func(p *page, fault func(int, string)) {
		p.each(func(n ast.Node) {
			var destination []byte
			switch l := n.(type) {
			case *ast.Link:
				destination = l.Destination
			case *ast.Image:
				destination = l.Destination
			default:
				return
			}
			if problem := r.dead(p, string(destination)); problem != "" {
				fault(p.line(n), problem)
			}
		})
	}), nil
}

// dead is what is wrong with where a link of a page leads; empty for links out of the repository.
func (r *repository) dead(p *page, destination string) string {
	u, err := url.Parse(destination)
	if err != nil {
		return fmt.Sprintf("%q is not a link", destination)
	}
	if u.Scheme != "" || u.Host != "" {
		return ""
	}
	to := p
	if u.Path != "" {
		file := p.from(u.Path)
		if file == ".." || strings.HasPrefix(file, "../") || !r.exists(file) {
			return fmt.Sprintf("%s does not exist", file)
		}
		if path.Ext(file) != ".md" {
			return ""
		}
		to = r.pages[file]
	}
	if u.Fragment != "" && to != nil && !to.anchors[u.Fragment] {
		return fmt.Sprintf("%s has no heading #%s", to.path, u.Fragment)
	}
	return ""
}
