// Tables in .sortable: a click on a column's name sorts by it, numbers as numbers; a second click turns the order.
(() => {
  'use strict'
  const value = (row, column) => row.cells[column].textContent.trim()
  for (const table of document.querySelectorAll('.sortable table')) {
    const heads = [...table.tHead.rows[0].cells]
    heads.forEach((head, column) => {
      const button = document.createElement('button')
      button.type = 'button'
      button.append(...head.childNodes)
      head.append(button)
      button.addEventListener('click', () => {
        const down = head.getAttribute('aria-sort') === 'ascending'
        heads.forEach(other => other.removeAttribute('aria-sort'))
        head.setAttribute('aria-sort', down ? 'descending' : 'ascending')
        const rows = [...table.tBodies[0].rows]
        rows.sort((a, b) => value(a, column).localeCompare(value(b, column), 'en', {numeric: true}))
        if (down) rows.reverse()
        table.tBodies[0].append(...rows)
      })
    })
  }
})()
