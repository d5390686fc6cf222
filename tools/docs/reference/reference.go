// Package reference makes the pages of docs/reference and the man pages. Each comes from the definitions that the
// programs themselves use: their commands and flags, their metrics, the types of configuration files and of the API.
//
// Pages and Man are where to start. Both return the same bytes for the same source code, wherever they run.
package reference

import "fmt"

// notice is the first line of every page.
const notice = "<!-- `make generate` writes this page. -->\n\n"

// Pages returns the pages of docs/reference by their names. The root is the directory of the repository, whose Go
// comments become descriptions.
func Pages(root string) (map[string][]byte, error) {
	pages := commandPages()
	for name, write := range map[string]func(root string) (*page, error){
		"config.md": configPage, "usercluster.md": userClusterPage, "metrics.md": metricsPage,
	} {
		p, err := write(root)
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", name, err)
		}
		pages[name] = p.Bytes()
	}
	return pages, nil
}
